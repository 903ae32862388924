#include "cold/epochs.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>

#include "cold/versions.h"
#include "xxhash.h"

namespace recis {
namespace {

constexpr char kEpochsKey[] = "epochs";
constexpr char kSequenceKey[] = "sequence";
constexpr char kValuePrefix[] = "value/";
constexpr char kStatePrefix[] = "state/";
constexpr size_t kMaxKeyBytes = 500;

// A transaction holds 131,071 dirty pages. A piece dirties a leaf and the path to it, besides
// the pages of its bytes.
constexpr size_t kPiecesPerTransaction = 8192;
constexpr size_t kBytesPerTransaction = size_t{64} << 20;
constexpr size_t kStateChunkBytes = (size_t{4} << 20) - 16;

// A version of a block's liveness: this, then its bits.
struct LiveHeader {
  uint32_t table;
  uint32_t rows;
  uint64_t record_bytes;
};
static_assert(sizeof(LiveHeader) == 16);

std::string StatePrefix(uint64_t epoch) {
  char text[48];
  std::snprintf(text, sizeof(text), "%s%016llx/", kStatePrefix,
                static_cast<unsigned long long>(epoch));
  return text;
}

std::string StateKey(uint64_t epoch, size_t chunk) {
  char text[16];
  std::snprintf(text, sizeof(text), "%08zx", chunk);
  return StatePrefix(epoch) + text;
}

size_t StateChunks(uint64_t bytes) { return (bytes + kStateChunkBytes - 1) / kStateChunkBytes; }

// Empty if no entry is live, as if the block were not there.
std::string LiveBytes(const BlockLiveness& block) {
  if (block.live.find_first_not_of('\0') == std::string::npos) return "";
  const LiveHeader header{block.table, block.rows, block.record_bytes};
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + block.live;
}

std::string Numbered(std::string text, uint64_t number) {
  text += std::to_string(number);
  return text;
}

Epoch Public(uint64_t epoch, int64_t step, int64_t seconds) { return {epoch, step, seconds}; }

}  // namespace

// ---- records ------------------------------------------------------------------------------

std::vector<Epochs::Record> Epochs::Records() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return records_;
}

Epochs::Record Epochs::CurrentRecord() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return records_.empty() ? Record{0, 0, 0, 1, 0, 0} : records_.back();
}

uint64_t Epochs::OldestEpoch() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return records_.empty() ? 0 : records_.front().epoch;
}

std::vector<Epoch> Epochs::All() const {
  std::vector<Epoch> epochs;
  for (const Record& r : Records()) epochs.push_back(Public(r.epoch, r.step, r.seconds));
  return epochs;
}

std::optional<Epoch> Epochs::Current() const {
  const Record r = CurrentRecord();
  if (r.epoch == 0) return {};
  return Public(r.epoch, r.step, r.seconds);
}

std::string Epochs::Serialize(const std::vector<Record>& records) {
  const std::string_view bytes(reinterpret_cast<const char*>(records.data()),
                               records.size() * sizeof(Record));
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  return std::string(reinterpret_cast<const char*>(&checksum), sizeof(checksum)).append(bytes);
}

Status Epochs::Damaged(const std::string& what) const {
  return Corrupt(database_->file() + ": " + what +
                 ": its checksum or length is wrong. `recis-ckpt verify " + database_->path() +
                 "` lists the damage; restore from a snapshot.");
}

Status Epochs::Missing(Sequence sequence) const {
  return Corrupt(database_->file() + ": block " + std::to_string(sequence) +
                 " has live records and is not there. Restore from a snapshot.");
}

Status Epochs::Load(std::optional<uint64_t> chosen) {
  Result<View> view = database_->Read();
  if (!view.ok()) return view.status();
  auto stored = view.value()->Get(kMeta, kEpochsKey);
  if (!stored.ok()) return stored.status();
  std::vector<Record> records;
  if (stored.value()) {
    const std::string_view bytes = *stored.value();
    const size_t count = (bytes.size() - std::min(bytes.size(), sizeof(uint64_t))) / sizeof(Record);
    records.resize(std::clamp<size_t>(count, 1, 2));
    if (count == records.size()) {
      std::memcpy(records.data(), bytes.data() + sizeof(uint64_t), count * sizeof(Record));
    }
    if (Serialize(records) != bytes) return Damaged("the record of its epochs");
  }
  if (chosen) {
    std::string there;
    for (const Record& r : records) there = Numbered(there + " ", r.epoch);
    // What was before the first commit counts as an epoch, too.
    const bool at_start = *chosen == 0 && (records.empty() || records.back().epoch == 1);
    while (!records.empty() && records.back().epoch != *chosen) records.pop_back();
    if (records.empty() && !at_start) {
      return NotFound(database_->path() + ": has no epoch " + std::to_string(*chosen) + "; it has" +
                      (there.empty() ? " none" : there) + ".");
    }
  }
  std::lock_guard<std::mutex> lock(mutex_);
  records_ = std::move(records);
  return {};
}

// ---- writing ------------------------------------------------------------------------------

Status Epochs::Write(const std::vector<Piece>& pieces) {
  for (size_t begin = 0; begin < pieces.size();) {
    size_t end = begin, bytes = 0;
    while (end < pieces.size() && end - begin < kPiecesPerTransaction &&
           (end == begin || bytes + pieces[end].bytes <= kBytesPerTransaction)) {
      bytes += pieces[end++].bytes;
    }
    RECIS_RETURN_IF_ERROR(database_->Write([&](Transaction& transaction) -> Status {
      for (size_t i = begin; i < end; ++i) RECIS_RETURN_IF_ERROR(pieces[i].write(transaction));
      return {};
    }));
    begin = end;
  }
  return {};
}

Epochs::Piece Epochs::PutVersion(Db db, std::string key, std::string bytes, uint64_t epoch) {
  const size_t size = key.size() + bytes.size();
  return {
      size,
      [this, db, key = std::move(key), bytes = std::move(bytes), epoch,
       oldest = OldestEpoch()](Transaction& transaction) -> Status {
        auto stored = transaction.Get(db, key);
        if (!stored.ok()) return stored.status();
        std::optional<Versions> versions = Versions();
        if (stored.value()) versions = Versions::Parse(*stored.value());
        if (!versions)
          return Damaged(std::string("a value of the database ") + (db == kLive ? "live" : "meta"));
        versions->Put(epoch, bytes, oldest);
        return transaction.Put(db, key, versions->Serialize());
      }};
}

Result<Epoch> Epochs::Commit(const Changes& changes, Sequence end, std::vector<Garbage>* garbage) {
  for (const auto& [key, value] : changes.values) {
    if (key.size() + sizeof(kValuePrefix) <= kMaxKeyBytes) continue;
    return InvalidArgument("the key of a value has " + std::to_string(key.size()) +
                           " bytes; at most " +
                           std::to_string(kMaxKeyBytes - sizeof(kValuePrefix)) + " are possible");
  }
  std::vector<Piece> pieces;
  if (torn_) {
    Result<View> view = database_->Read();
    if (!view.ok()) return view.status();
    RECIS_RETURN_IF_ERROR(Revert(*view.value().operator->(), &pieces));
  }
  const uint64_t epoch = CurrentRecord().epoch + 1;
  for (const BlockLiveness& block : changes.liveness) {
    pieces.push_back(
        PutVersion(kLive, std::string(KeyOf(block.sequence)), LiveBytes(block), epoch));
  }
  for (const auto& [key, value] : changes.values) {
    pieces.push_back(PutVersion(kMeta, kValuePrefix + key, value, epoch));
  }
  const std::string_view state = changes.state;
  for (size_t chunk = 0; chunk < StateChunks(state.size()); ++chunk) {
    const std::string_view bytes = state.substr(chunk * kStateChunkBytes, kStateChunkBytes);
    pieces.push_back({bytes.size(), [=](Transaction& transaction) {
                        return transaction.Put(kMeta, StateKey(epoch, chunk), bytes);
                      }});
  }
  std::vector<Record> records = Records();
  std::optional<Record> forgotten;
  if (records.size() == 2) {
    forgotten = records.front();
    records.erase(records.begin());
  }
  records.push_back({epoch, changes.step, static_cast<int64_t>(std::time(nullptr)), end,
                     state.size(), XXH3_64bits(state.data(), state.size())});
  pieces.push_back({0, [stored = Serialize(records)](Transaction& transaction) {
                      return transaction.Put(kMeta, kEpochsKey, stored);
                    }});
  torn_ = true;
  RECIS_RETURN_IF_ERROR(Write(pieces));
  torn_ = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    records_ = std::move(records);
  }
  for (const Sequence sequence : changes.dead) {
    garbage->push_back({kBlocks, std::string(KeyOf(sequence))});
  }
  for (size_t chunk = 0; forgotten && chunk < StateChunks(forgotten->state_bytes); ++chunk) {
    garbage->push_back({kMeta, StateKey(forgotten->epoch, chunk)});
  }
  return *Current();
}

// ---- recovery -----------------------------------------------------------------------------

Status Epochs::Revert(const Transaction& view, std::vector<Piece>* pieces) const {
  const uint64_t newest = CurrentRecord().epoch, oldest = OldestEpoch();
  for (const auto& [db, prefix] : {std::pair(kLive, ""), std::pair(kMeta, kValuePrefix)}) {
    RECIS_RETURN_IF_ERROR(view.ForEach(
        db, prefix, [&, db = db](std::string_view key, std::string_view stored) -> Status {
          std::optional<Versions> versions = Versions::Parse(stored);
          if (!versions)
            return Damaged(std::string("a value of the database ") +
                           (db == kLive ? "live" : "meta"));
          const bool reverted = versions->RevertTo(newest);
          if (versions->EmptyFrom(oldest)) {
            pieces->push_back({key.size(), [db, key = std::string(key)](Transaction& transaction) {
                                 return transaction.Delete(db, key);
                               }});
          } else if (reverted) {
            pieces->push_back(
                {stored.size(), [db, key = std::string(key), bytes = versions->Serialize()](
                                    Transaction& t) { return t.Put(db, key, bytes); }});
          }
          return {};
        }));
  }
  return view.ForEach(kMeta, kStatePrefix, [&](std::string_view key, std::string_view) -> Status {
    for (const Record& r : Records()) {
      if (key.starts_with(StatePrefix(r.epoch))) return {};
    }
    pieces->push_back({key.size(), [key = std::string(key)](Transaction& transaction) {
                         return transaction.Delete(kMeta, key);
                       }});
    return {};
  });
}

Result<Sequence> Epochs::Recover() {
  std::vector<Piece> pieces;
  Sequence next;
  {
    Result<View> view = database_->Read();
    if (!view.ok()) return view.status();
    Result<Sequence> found = FindNewer(*view.value().operator->(), &pieces);
    if (!found.ok()) return found;
    next = found.value();
    RECIS_RETURN_IF_ERROR(Revert(*view.value().operator->(), &pieces));
    RECIS_RETURN_IF_ERROR(FindOrphans(*view.value().operator->(), &pieces));
  }
  RECIS_RETURN_IF_ERROR(Write(pieces));
  return next;
}

// Written first of all: from here on a newer epoch is gone, and blocks that are dropped leave no
// number to be given out again.
Result<Sequence> Epochs::FindNewer(const Transaction& view, std::vector<Piece>* pieces) const {
  auto last = view.LastSequence(kBlocks);
  if (!last.ok()) return last;
  auto stored_next = view.Get(kMeta, kSequenceKey);
  if (!stored_next.ok()) return stored_next.status();
  auto stored_records = view.Get(kMeta, kEpochsKey);
  if (!stored_records.ok()) return stored_records.status();

  const std::string records = Serialize(Records());
  if (stored_records.value() && *stored_records.value() != records) {
    pieces->push_back({0, [=, none = Records().empty()](Transaction& transaction) {
                         return none ? transaction.Delete(kMeta, kEpochsKey)
                                     : transaction.Put(kMeta, kEpochsKey, records);
                       }});
  }
  const Sequence end = CurrentRecord().end;
  Sequence next = std::max(end, last.value() + 1);
  if (stored_next.value()) next = std::max(next, SequenceOf(*stored_next.value()));
  if (last.value() >= end) {
    pieces->push_back({0, [=](Transaction& transaction) {
                         return transaction.Put(kMeta, kSequenceKey, KeyOf(next));
                       }});
  }
  return next;
}

// A block stays if it is live in an epoch that can be opened.
Status Epochs::FindOrphans(const Transaction& view, std::vector<Piece>* pieces) const {
  const uint64_t newest = CurrentRecord().epoch, oldest = OldestEpoch();
  std::vector<Sequence> live;
  RECIS_RETURN_IF_ERROR(
      view.ForEach(kLive, "", [&](std::string_view key, std::string_view stored) -> Status {
        std::optional<Versions> versions = Versions::Parse(stored);
        if (!versions) return Damaged(Numbered("the liveness of block ", SequenceOf(key)));
        versions->RevertTo(newest);
        if (!versions->EmptyFrom(oldest)) live.push_back(SequenceOf(key));
        return {};
      }));
  size_t kept = 0;
  RECIS_RETURN_IF_ERROR(
      view.ForEach(kBlocks, "", [&](std::string_view key, std::string_view) -> Status {
        if (kept < live.size() && live[kept] < SequenceOf(key)) return Missing(live[kept]);
        if (kept < live.size() && live[kept] == SequenceOf(key)) {
          ++kept;
          return {};
        }
        pieces->push_back({key.size(), [key = std::string(key)](Transaction& transaction) {
                             return Remove({kBlocks, key}, transaction);
                           }});
        return {};
      }));
  return kept == live.size() ? Status() : Missing(live[kept]);
}

// ---- reading ------------------------------------------------------------------------------

Status Epochs::ForEachBlock(const std::function<void(const BlockLiveness&)>& use) const {
  Result<View> view = database_->Read();
  if (!view.ok()) return view.status();
  const uint64_t epoch = CurrentRecord().epoch;
  return view.value()->ForEach(
      kLive, "", [&](std::string_view key, std::string_view stored) -> Status {
        const Sequence sequence = SequenceOf(key);
        const std::optional<Versions> versions = Versions::Parse(stored);
        if (!versions) return Damaged(Numbered("the liveness of block ", sequence));
        const std::string_view bytes = versions->At(epoch);
        if (bytes.empty()) return {};
        LiveHeader header{};
        if (bytes.size() >= sizeof(header)) std::memcpy(&header, bytes.data(), sizeof(header));
        if (bytes.size() != sizeof(header) + (uint64_t{header.rows} + 7) / 8) {
          return Damaged(Numbered("the liveness of block ", sequence));
        }
        use({sequence, header.table, header.rows, header.record_bytes,
             std::string(bytes.substr(sizeof(header)))});
        return {};
      });
}

Status Epochs::ReadIds(
    const std::vector<Sequence>& blocks,
    const std::function<void(Sequence, const int64_t*, const Row*, uint32_t)>& use) const {
  Result<View> view = database_->Read();
  if (!view.ok()) return view.status();
  std::vector<int64_t> ids;
  std::vector<Row> rows;
  for (const Sequence sequence : blocks) {
    auto found = view.value()->Get(kIds, KeyOf(sequence));
    if (!found.ok()) return found.status();
    const std::string_view stored = found.value().value_or(std::string_view());
    const std::string what = Numbered("the ids of block ", sequence);
    IdsHeader header;
    if (stored.size() < sizeof(header)) return Damaged(what);
    std::memcpy(&header, stored.data(), sizeof(header));
    const std::string_view lists = stored.substr(sizeof(header));
    if (header.rows == 0 || lists.size() != header.rows * (sizeof(int64_t) + sizeof(Row)) ||
        XXH3_64bits(lists.data(), lists.size()) != header.checksum) {
      return Damaged(what);
    }
    ids.resize(header.rows);
    rows.resize(header.rows);
    std::memcpy(ids.data(), lists.data(), ids.size() * sizeof(int64_t));
    std::memcpy(rows.data(), lists.data() + ids.size() * sizeof(int64_t),
                rows.size() * sizeof(Row));
    use(sequence, ids.data(), rows.data(), header.rows);
  }
  return {};
}

Status Epochs::ForEachValue(
    const std::string& prefix,
    const std::function<void(std::string_view, std::string_view)>& use) const {
  Result<View> view = database_->Read();
  if (!view.ok()) return view.status();
  const uint64_t epoch = CurrentRecord().epoch;
  return view.value()->ForEach(
      kMeta, kValuePrefix + prefix, [&](std::string_view key, std::string_view stored) -> Status {
        key.remove_prefix(sizeof(kValuePrefix) - 1);
        const std::optional<Versions> versions = Versions::Parse(stored);
        if (!versions) return Damaged("the value " + std::string(key));
        if (const std::string_view bytes = versions->At(epoch); !bytes.empty()) use(key, bytes);
        return {};
      });
}

Result<std::string> Epochs::State() const {
  Result<View> view = database_->Read();
  if (!view.ok()) return view.status();
  const Record record = CurrentRecord();
  std::string state;
  RECIS_RETURN_IF_ERROR(view.value()->ForEach(
      kMeta, StatePrefix(record.epoch), [&](std::string_view, std::string_view chunk) -> Status {
        state += chunk;
        return {};
      }));
  if (record.epoch != 0 && (state.size() != record.state_bytes ||
                            XXH3_64bits(state.data(), state.size()) != record.state_checksum)) {
    return Damaged(Numbered("the state of epoch ", record.epoch));
  }
  return state;
}

}  // namespace recis
