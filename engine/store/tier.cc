#include "store/tier.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/thread_pool.h"

namespace recis {
namespace {
constexpr int64_t kGrain = 4096;  // rows below which threads do not pay
}

Tier::Tier(Store& store, uint32_t table, const StoreMember& member, RecordLayout layout,
           int64_t block_rows)
    : store_(store),
      table_(table),
      member_(member),
      block_rows_(block_rows),
      layout_(std::move(layout)),
      arena_(layout_.record_bytes, block_rows) {}

Result<std::unique_ptr<Tier>> Tier::Make(Store& store, uint32_t table, const StoreMember& member,
                                         RecordLayout layout, int64_t block_rows) {
  std::unique_ptr<Tier> tier(new Tier(store, table, member, std::move(layout), block_rows));
  if (!tier->Grow(1)) {
    return InvalidArgument(
        "the store's hot budget of " + std::to_string(store.options().hot_bytes) +
        " bytes has no room for one more hot block, of " + std::to_string(block_rows) +
        " rows and " + std::to_string(tier->BlockBytes()) +
        " bytes: raise hot_bytes or lower block_size");
  }
  return tier;
}

int64_t Tier::BlockBytes() const {
  return block_rows_ * static_cast<int64_t>(layout_.record_bytes);
}

bool Tier::Grow(int64_t frames) {
  const int64_t wanted = (frames + block_rows_ - 1) / block_rows_;
  const int64_t blocks = store_.Grant(*this, BlockBytes(), wanted);
  if (blocks == 0) return false;
  const Frame begin = clock_.size();
  const auto end = static_cast<Frame>(begin + blocks * block_rows_);
  if (!arena_.Reserve(end).ok() || !row_of_.Reserve(end).ok() || !dirty_.Reserve(end).ok() ||
      !copy_.Reserve(end).ok()) {
    store_.GiveBack(blocks * BlockBytes());
    return false;
  }
  clock_.Resize(end);
  if (!in_place_) {  // the lowest is taken first
    for (Frame frame = end; frame > begin; --frame) free_frames_.push_back(frame - 1);
  }
  return true;
}

void Tier::GrowFor(const Row* rows, int64_t n, int64_t missing) {
  if (in_place_) {
    int64_t end = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (rows[i] != kNoRow) end = std::max(end, int64_t{rows[i]} + 1);
    }
    if (end <= int64_t{clock_.size()}) return;
    Grow(end - clock_.size());
    if (end <= int64_t{clock_.size()}) return;
    LeavePlaces();
  }
  const auto free_frames = static_cast<int64_t>(free_frames_.size());
  if (missing > free_frames) Grow(missing - free_frames);
}

void Tier::LeavePlaces() {
  if (!in_place_) return;
  in_place_ = false;
  for (Frame frame = clock_.size(); frame > 0; --frame) {
    if (!clock_.used(frame - 1)) free_frames_.push_back(frame - 1);
  }
}

Frame Tier::TakeFrame(Row row) {
  ++used_frames_;
  if (in_place_) return row;
  if (free_frames_.empty()) {
    const std::optional<Frame> victim = clock_.Victim();
    RECIS_CHECK(victim.has_value());
    Spill(*victim);
  }
  const Frame frame = free_frames_.back();
  free_frames_.pop_back();
  return frame;
}

void Tier::Spill(Frame frame) {
  LeavePlaces();
  const Row row = row_of_[frame];
  ++spills_;
  ++cold_rows_;
  if (dirty_[frame]) {
    locations_[row] = Pack(member_.IdOf(row), row, arena_.At(frame));
  } else {
    locations_[row] = copy_[frame];
    ++drops_;
  }
  FreeFrame(frame);
}

void Tier::FreeFrame(Frame frame) {
  dirty_[frame] = 0;
  copy_[frame] = Location();
  clock_.Free(frame);
  --used_frames_;
  if (!in_place_) free_frames_.push_back(frame);
}

Location Tier::Pack(int64_t id, Row row, const std::byte* record) {
  Catalog& catalog = store_.catalog();
  if (!open_) open_ = catalog.Open(table_, layout_.used_bytes);
  const Location where = catalog.Add(*open_, id, row, record);
  if (catalog.at(*open_).block->full()) AppendOpenBlock();
  return where;
}

void Tier::AppendOpenBlock() {
  if (open_) store_.Append(*std::exchange(open_, std::nullopt));
}

void Tier::Recover(Row row, Location cold) {
  locations_[row] = cold;
  ++cold_rows_;
}

Result<int64_t> Tier::Hold(const Row* rows, int64_t n, Use use, const ColdReads& read) {
  if (use != Use::kNew && all_hot()) {
    if (use == Use::kChange) MarkDirty(rows, n);
    return n;
  }
  // As many rows as frames can be had for, those first that need none.
  int64_t missing = 0;
  for (int64_t i = 0; i < n; ++i) missing += rows[i] != kNoRow && !locations_[rows[i]].hot();
  GrowFor(rows, n, missing);
  const auto room = static_cast<int64_t>(clock_.size());
  int64_t count = 0;
  missing = 0;
  for (; count < n; ++count) {
    if (rows[count] == kNoRow) continue;
    const Location where = locations_[rows[count]];
    const bool holding = !where.hot() || !clock_.pinned(where.frame());
    if (holding && static_cast<int64_t>(held_.size()) + missing == room) break;
    if (!where.hot()) {
      ++missing;
    } else if (holding) {
      clock_.Pin(where.frame());
      held_.push_back(where.frame());
    }
  }
  std::vector<Miss> misses;
  std::vector<Frame> taken;
  for (int64_t i = 0; i < count && missing > 0; ++i) {
    if (rows[i] == kNoRow) continue;
    Location& where = locations_[rows[i]];
    if (where.hot()) continue;
    const Frame frame = TakeFrame(rows[i]);
    if (where.cold()) {
      misses.push_back({rows[i], where, arena_.At(frame)});
      taken.push_back(frame);
      copy_[frame] = where;
    }
    row_of_[frame] = rows[i];
    dirty_[frame] = use == Use::kNew;
    where = Location::Hot(frame);
    clock_.Use(frame);
    clock_.Pin(frame);
    held_.push_back(frame);
  }
  if (Status fetched = Fetch(misses, read); !fetched.ok()) {
    Release();
    for (size_t i = 0; i < misses.size(); ++i) {
      locations_[misses[i].row] = misses[i].where;
      FreeFrame(taken[i]);
    }
    return fetched;
  }
  promotes_ += static_cast<int64_t>(misses.size());
  cold_rows_ -= static_cast<int64_t>(misses.size());
  if (use == Use::kChange) MarkDirty(rows, count);
  return count;
}

void Tier::Release() {
  for (const Frame frame : held_) clock_.Unpin(frame);
  held_.clear();
}

void Tier::Touch(const Row* rows, int64_t n) {
  if (!store_.limited()) return;
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (rows[i] == kNoRow) continue;
      if (all_hot() || locations_[rows[i]].hot()) clock_.Touch(FrameOf(rows[i]));
    }
  });
}

void Tier::MarkDirty(const Row* rows, int64_t n) {
  std::mutex mutex;
  std::vector<Location> stale;  // GUARDED_BY(mutex)
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<Location> found;
    for (int64_t i = begin; i < end; ++i) {
      if (rows[i] == kNoRow) continue;
      const Frame frame = FrameOf(rows[i]);
      // Rows may repeat: one of them sees the change.
      const std::atomic_ref<uint8_t> dirty(dirty_[frame]);
      if (dirty.load(std::memory_order_relaxed) || dirty.exchange(1, std::memory_order_relaxed)) {
        continue;
      }
      found.push_back(std::exchange(copy_[frame], Location()));
    }
    if (found.empty()) return;
    const std::lock_guard<std::mutex> lock(mutex);
    stale.insert(stale.end(), found.begin(), found.end());
  });
  for (const Location where : stale) store_.catalog().Kill(where);
}

ReadRequest Tier::RequestFor(const Miss& miss) const {
  const Catalog::Entry& entry = store_.catalog().at(miss.where.block());
  return {.sequence = entry.sequence,
          .position = miss.where.position(),
          .id = member_.IdOf(miss.row),
          .row = miss.row,
          .record_bytes = entry.record_bytes,
          .record = miss.record,
          .block_offset = &entry.offset};
}

// The bytes of an entry never change, and no sequence is used twice.
const ReadRequest* Tier::FindRead(const ColdReads& read, const Miss& miss) const {
  const auto found =
      std::lower_bound(read.requests.begin(), read.requests.end(), miss.row,
                       [](const ReadRequest& request, Row row) { return request.row < row; });
  const bool same = found != read.requests.end() && found->row == miss.row &&
                    found->sequence == store_.catalog().at(miss.where.block()).sequence &&
                    found->position == miss.where.position();
  return same ? &*found : nullptr;
}

Status Tier::Fetch(const std::vector<Miss>& misses, const ColdReads& read) const {
  std::vector<ReadRequest> requests;
  for (const Miss& miss : misses) {
    const Catalog::Entry& entry = store_.catalog().at(miss.where.block());
    if (entry.record_bytes < layout_.used_bytes) {
      std::memcpy(miss.record, layout_.new_record.data(), layout_.used_bytes);
    }
    if (entry.block) {
      std::memcpy(miss.record, entry.block->record(miss.where.position()), entry.record_bytes);
    } else if (const ReadRequest* found = FindRead(read, miss)) {
      std::memcpy(miss.record, found->record, entry.record_bytes);
      entry.offset = *found->block_offset;
    } else {
      requests.push_back(RequestFor(miss));
    }
  }
  if (requests.empty()) return {};
  return store_.log().Read(requests.data(), static_cast<int64_t>(requests.size()));
}

ColdReads Tier::ReadsOf(const Row* rows, int64_t n) const {
  ColdReads reads;
  for (int64_t i = 0; i < n; ++i) {
    const Location where = rows[i] == kNoRow ? Location() : locations_[rows[i]];
    if (!where.cold() || store_.catalog().at(where.block()).block) continue;
    reads.requests.push_back(RequestFor({rows[i], where, nullptr}));
  }
  reads.offsets.resize(reads.requests.size());
  reads.records = BufferCache::Get(reads.requests.size() * layout_.record_bytes);
  std::byte* next = reads.records.data();
  for (size_t i = 0; i < reads.requests.size(); ++i) {
    ReadRequest& request = reads.requests[i];
    reads.offsets[i] =
        std::atomic_ref<uint64_t>(*request.block_offset).load(std::memory_order_relaxed);
    request.block_offset = &reads.offsets[i];  // the catalog's may be another block's by then
    request.record = std::exchange(next, next + layout_.record_bytes);
    if (request.record_bytes < layout_.used_bytes) {
      std::memcpy(request.record, layout_.new_record.data(), layout_.used_bytes);
    }
  }
  return reads;
}

Status Tier::Locate(const Row* rows, int64_t n, Sources* sources) const {
  sources->pointers = BufferCache::Get(static_cast<size_t>(n) * sizeof(const std::byte*));
  auto* pointers = sources->pointers.as<const std::byte*>();
  std::vector<int64_t> cold;
  for (int64_t i = 0; i < n; ++i) {
    const Location where = rows[i] == kNoRow ? Location() : locations_[rows[i]];
    pointers[i] = where.hot() ? arena_.At(where.frame()) : nullptr;
    if (where.cold()) cold.push_back(i);
  }
  if (cold.empty()) return {};
  sources->copies = BufferCache::Get(cold.size() * layout_.record_bytes);
  std::vector<Miss> misses;
  misses.reserve(cold.size());
  std::byte* next = sources->copies.data();
  for (const int64_t i : cold) {
    misses.push_back({rows[i], locations_[rows[i]], next});
    pointers[i] = next;
    next += layout_.record_bytes;
  }
  return Fetch(misses);
}

void Tier::Free(Row row) {
  const Location where = std::exchange(locations_[row], Location());
  if (where.cold()) {
    store_.catalog().Kill(where);
    --cold_rows_;
    return;
  }
  const Frame frame = where.frame();
  if (!copy_[frame].nowhere()) store_.catalog().Kill(copy_[frame]);
  FreeFrame(frame);
}

void Tier::Flush() {
  for (Frame frame = 0; frame < clock_.size(); ++frame) {
    if (!dirty_[frame]) continue;
    copy_[frame] = Pack(member_.IdOf(row_of_[frame]), row_of_[frame], arena_.At(frame));
    dirty_[frame] = 0;
  }
  AppendOpenBlock();
}

Status Tier::ChangeLayout(RecordLayout layout) {
  for (Frame frame = 0; frame < clock_.size(); ++frame) {
    if (clock_.used(frame)) Spill(frame);
  }
  AppendOpenBlock();
  const RecordLayout old = std::exchange(layout_, std::move(layout));
  const int64_t old_bytes = static_cast<int64_t>(clock_.size() * old.record_bytes);
  store_.GiveBack(old_bytes);
  Arena old_arena = std::exchange(arena_, Arena(layout_.record_bytes, block_rows_));
  const Frame old_frames = clock_.size();
  free_frames_.clear();
  in_place_ = true;  // there is no hot row
  clock_.Resize(0);
  if (Grow(1)) return {};
  // Back to how it was, but spilled.
  layout_ = old;
  arena_ = std::move(old_arena);
  Grow(old_frames);
  return InvalidArgument("the store's hot budget of " + std::to_string(store_.options().hot_bytes) +
                         " bytes has no room for one hot block with the new slot: raise hot_bytes "
                         "or lower block_size");
}

void Tier::GiveUp(int64_t bytes) {
  const int64_t blocks = clock_.size() / block_rows_;
  const int64_t going =
      std::min((bytes + BlockBytes() - 1) / BlockBytes(), std::max<int64_t>(blocks - 1, 0));
  if (going <= 0) return;
  LeavePlaces();
  const auto end = static_cast<Frame>((blocks - going) * block_rows_);
  // The coldest rows leave their frames to those that lie beyond the new end.
  std::erase_if(free_frames_, [end](Frame frame) { return frame >= end; });
  int64_t moving = 0;
  for (Frame frame = end; frame < clock_.size(); ++frame) moving += clock_.used(frame);
  while (moving > static_cast<int64_t>(free_frames_.size())) {
    const Frame victim = *clock_.Victim();
    Spill(victim);
    if (victim < end) continue;
    free_frames_.pop_back();
    --moving;
  }
  for (Frame frame = end; frame < clock_.size(); ++frame) {
    if (!clock_.used(frame)) continue;
    const Frame to = TakeFrame(row_of_[frame]);
    --used_frames_;  // of the one it leaves
    std::memcpy(arena_.At(to), arena_.At(frame), layout_.record_bytes);
    row_of_[to] = row_of_[frame];
    dirty_[to] = dirty_[frame];
    copy_[to] = copy_[frame];
    locations_[row_of_[to]] = Location::Hot(to);
    clock_.Use(to);
    dirty_[frame] = 0;
    copy_[frame] = Location();
  }
  clock_.Resize(end);
  arena_.Shrink(end);
  store_.GiveBack(going * BlockBytes());
}

Status Tier::Clean(BlockNumber number) {
  const Catalog& catalog = store_.catalog();
  const Catalog::Entry entry = catalog.at(number);
  std::vector<std::byte> value;
  RECIS_RETURN_IF_ERROR(store_.log().ReadBlock(
      {entry.sequence, entry.table, entry.rows, entry.record_bytes, entry.live}, &value));
  std::vector<std::byte> record = layout_.new_record;
  for (uint32_t position = 0; position < entry.rows; ++position) {
    if (!catalog.Live(number, position)) continue;
    EntryHeader header;
    const std::byte* at = value.data() + Block::OffsetOf(position, entry.record_bytes);
    std::memcpy(&header, at, sizeof(header));
    const Location here = Location::Cold(number, position);
    Location& where = locations_[header.row];
    if (where == here) {
      std::memcpy(record.data(), at + sizeof(header), entry.record_bytes);
      where = Pack(header.id, header.row, record.data());
    } else {
      // Hot: it is packed again when its turn comes.
      copy_[where.frame()] = Location();
      dirty_[where.frame()] = 1;
    }
    store_.catalog().Kill(here);
  }
  return {};
}

void Tier::Clear() {
  Catalog& catalog = store_.catalog();
  for (BlockNumber number = 0; number < catalog.end(); ++number) {
    const uint32_t rows = catalog.at(number).in_use && catalog.at(number).table == table_
                              ? catalog.at(number).rows
                              : 0;
    for (uint32_t position = 0; position < rows; ++position) {
      if (catalog.Live(number, position)) catalog.Kill(Location::Cold(number, position));
      if (!catalog.at(number).in_use) break;
    }
  }
  AppendOpenBlock();
  locations_.Clear();
  cold_rows_ = 0;
  const auto frames = clock_.size();
  free_frames_.clear();
  in_place_ = true;
  for (Frame frame = 0; frame < frames; ++frame) {
    if (clock_.used(frame)) FreeFrame(frame);
  }
}

TierStats Tier::Stats() const {
  TierStats stats;
  stats.hot_rows = used_frames_;
  stats.cold_rows = cold_rows_;
  stats.hot_bytes = hot_bytes();
  stats.promotes = promotes_;
  stats.spills = spills_;
  stats.drops = drops_;
  return stats;
}

}  // namespace recis
