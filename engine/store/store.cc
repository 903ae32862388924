#include "store/store.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/fork.h"
#include "base/yield.h"
#include "store/tier.h"

namespace recis {
namespace {

using ReadLock = Yielding<std::shared_lock<SharedMutex>>;
using WriteLock = Yielding<std::unique_lock<SharedMutex>>;

// Blocks are rewritten while they take more than kWasteful times their live entries; those
// chosen at a time would bring it to kThrifty. See docs/impl.md.
constexpr double kWasteful = 1.5, kThrifty = 1.4;
constexpr int64_t kSlackBytes = 128 << 10;  // small stores are not worth it
// Blocks rewritten for each block written, and at least.
constexpr int64_t kCleanedPerAppended = 3, kMinCleaned = 4;
// After a scan that found none, this part of all blocks must be new before the next.
constexpr Sequence kRescanPart = 16;

constexpr int64_t kVerifiedBlocks = 64;  // between two reports

constexpr char kTableKey[] = "table/";

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Of two commits' changes, the second after the first failed, what must be written now.
void Merge(Changes later, Changes* changes) {
  if (changes->liveness.empty() && changes->values.empty()) {
    *changes = std::move(later);
    return;
  }
  std::map<Sequence, BlockLiveness> liveness;
  for (BlockLiveness& block : changes->liveness) liveness[block.sequence] = std::move(block);
  for (BlockLiveness& block : later.liveness) liveness[block.sequence] = std::move(block);
  std::map<std::string, std::string> values(changes->values.begin(), changes->values.end());
  for (auto& [key, value] : later.values) values[key] = std::move(value);
  later.liveness.clear();
  for (auto& [sequence, block] : liveness) later.liveness.push_back(std::move(block));
  later.values.assign(values.begin(), values.end());
  *changes = std::move(later);
}

}  // namespace

Store::Store(StoreOptions options)
    : options_(std::move(options)), fork_generation_(ForkGeneration()) {}

Result<std::shared_ptr<Store>> Store::Open(StoreOptions options) {
  std::shared_ptr<Store> store(new Store(std::move(options)));
  Result<std::unique_ptr<Log>> log = Log::Open(store->options_.log);
  if (!log.ok()) return log.status();
  store->log_ = std::move(log.value());
  RECIS_RETURN_IF_ERROR(store->Recover());
  return store;
}

Status Store::Recover() {
  RECIS_RETURN_IF_ERROR(
      log_->ForEachBlock([this](const BlockLiveness& block) { catalog_.Recover(block); }));
  return log_->ForEachValue(kTableKey, [this](std::string_view key, std::string_view value) {
    key.remove_prefix(sizeof(kTableKey) - 1);
    if (key.find('/') == key.npos) {
      tables_.emplace(value, static_cast<uint32_t>(std::stoul(std::string(key))));
    }
  });
}

Status Store::Usable() const {
  const std::string& path = options_.log.path;
  if (ForkGeneration() != fork_generation_) {
    return Unavailable("store '" + path + "' was opened before this process, " +
                       std::to_string(getpid()) +
                       ", was forked, and may not be used in it: use it in the parent, or start "
                       "this process anew (spawn) and let it have a store of its own");
  }
  if (!log_) return Unavailable("store '" + path + "' is closed: open it again");
  return {};
}

Status Store::Changeable() const {
  RECIS_RETURN_IF_ERROR(Usable());
  if (options_.log.read_only) {
    return Unavailable("store '" + options_.log.path +
                       "' is open read-only: tables in it can be read in eval mode, not changed");
  }
  if (!broken_.ok()) return broken_;
  return log_->Ready();
}

void Store::Break(const Status& cause) {
  broken_ = Status(
      cause.code(),
      "store '" + options_.log.path +
          "': a change of more rows than fit in memory was cut short by: " + cause.message() +
          ". The last commit is intact: open the store again to go on from it");
}

// Tables wait only until their changed rows are copied, if memory allows: as much as a quarter of
// the budget.
size_t Store::CommitQueueBytes() const {
  const auto quarter = static_cast<size_t>(options_.hot_bytes / 4);
  return std::max(options_.log.queue_bytes, quarter);
}

Result<Epoch> Store::Commit(int64_t step, std::string state) {
  const std::lock_guard<std::mutex> one(commit_mutex_);
  const auto start = std::chrono::steady_clock::now();
  double stall = 0;
  Sequence end = 0;
  {
    const std::lock_guard<std::mutex> fronts(fronts_mutex_);
    std::vector<std::unique_lock<std::mutex>> held;  // so that all tables are of one moment
    for (const auto& [name, front] : fronts_) {
      Result<std::unique_lock<std::mutex>> lock = front->WriteBackAndHold();
      if (!lock.ok()) return lock.status();
      held.push_back(std::move(lock.value()));
    }
    WriteLock lock(mutex_);
    const auto locked = std::chrono::steady_clock::now();
    RECIS_RETURN_IF_ERROR(Changeable());
    Changes changes;
    changes.step = step;
    changes.state = std::move(state);
    queue_bytes_ = CommitQueueBytes();
    for (const auto& [name, member] : members_) {
      member->tier().Flush();
      const std::string key = KeyOf(tables_.at(name), "");
      Values values;
      member->CollectValues(&values);
      for (auto& [part, value] : values) changes.values.emplace_back(key + part, std::move(value));
      changes.values.emplace_back(key.substr(0, key.size() - 1), name);
    }
    queue_bytes_ = options_.log.queue_bytes;
    catalog_.Collect(&changes);
    Merge(std::move(changes), &unsaved_);
    end = log_->EndSequence();
    stall = SecondsSince(locked);
  }
  Result<Epoch> epoch = log_->Commit(unsaved_, end);
  if (!epoch.ok()) return epoch;
  unsaved_ = Changes();
  WriteLock lock(mutex_);
  catalog_.Committed();
  catalog_.Durable(log_->durable());
  ++stats_.commits;
  stats_.commit_stall_seconds = stall;
  stats_.commit_seconds = SecondsSince(start);
  return epoch;
}

void Store::Close() {
  if (ForkGeneration() != fork_generation_) return;  // its locks may be held for good
  worker_.Stop();
  const std::lock_guard<std::mutex> one(commit_mutex_);
  std::map<std::string, std::shared_ptr<StoreFront>> fronts;  // outlive the locks
  std::map<std::string, std::shared_ptr<StoreMember>> members;
  {
    const std::lock_guard<std::mutex> lock(fronts_mutex_);
    fronts = std::move(fronts_);
  }
  WriteLock lock(mutex_);
  members = std::move(members_);
  log_.reset();
}

std::vector<Epoch> Store::Epochs() const {
  ReadLock lock(mutex_);
  return log_ ? log_->Epochs() : std::vector<Epoch>();
}

Result<std::string> Store::State() const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(Usable());
  return log_->State();
}

std::vector<std::string> Store::Tables() const {
  ReadLock lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, number] : tables_) names.push_back(name);
  return names;
}

Result<std::map<std::string, TableSize>> Store::Sizes() const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(Usable());
  std::map<uint32_t, Catalog> catalogs;  // by table, for the epoch: ours is of what came since too
  RECIS_RETURN_IF_ERROR(log_->ForEachBlock(
      [&](const BlockLiveness& block) { catalogs[block.table].Recover(block); }));
  std::map<std::string, TableSize> sizes;
  for (const auto& [name, number] : tables_) {
    const Catalog& catalog = catalogs[number];
    sizes[name] = {catalog.live_rows(), catalog.live_bytes()};
  }
  return sizes;
}

StoreStats Store::Stats() const {
  ReadLock lock(mutex_);
  StoreStats stats = stats_;
  if (log_) stats.log = log_->Stats();
  stats.hot_bytes = hot_bytes_;
  stats.live_bytes = catalog_.live_bytes();
  stats.block_bytes = catalog_.block_bytes();
  stats.dead_bytes = catalog_.dead_bytes();
  return stats;
}

bool Store::Joined(const std::string& name) const {
  ReadLock lock(mutex_);
  return members_.contains(name);
}

Result<std::shared_ptr<StoreFront>> Store::Front(
    const std::string& name, const std::function<Result<std::shared_ptr<StoreFront>>()>& make) {
  const std::lock_guard<std::mutex> lock(fronts_mutex_);
  if (const auto found = fronts_.find(name); found != fronts_.end()) return found->second;
  Result<std::shared_ptr<StoreFront>> made = make();
  if (made.ok()) fronts_.emplace(name, made.value());
  return made;
}

void Store::Leave(const std::string& name) {
  std::shared_ptr<StoreFront> front;  // outlive the locks
  std::shared_ptr<StoreMember> member;
  {
    const std::lock_guard<std::mutex> fronts(fronts_mutex_);
    if (const auto found = fronts_.find(name); found != fronts_.end()) {
      front = std::move(found->second);
      fronts_.erase(found);
    }
  }
  WriteLock lock(mutex_);
  const auto found = members_.find(name);
  if (found == members_.end()) return;
  member = std::move(found->second);
  members_.erase(found);
  to_clean_.clear();  // may name blocks of it
  GiveBack(member->tier().hot_bytes());
  bool known = false;  // by an epoch: then it is a table that is not there at the moment
  const Status read = ForEachValue(tables_.at(name), [&](auto...) { known = true; });
  if (read.ok() && !known) tables_.erase(name);
}

Result<std::vector<std::string>> Store::Verify(
    const std::function<void(int64_t, int64_t)>& progress) const {
  std::vector<BlockLiveness> blocks;
  {
    ReadLock lock(mutex_);
    RECIS_RETURN_IF_ERROR(Usable());
    RECIS_RETURN_IF_ERROR(
        log_->ForEachBlock([&](const BlockLiveness& block) { blocks.push_back(block); }));
  }
  const auto total = static_cast<int64_t>(blocks.size());
  std::vector<std::string> damage;
  std::vector<std::byte> value;
  for (int64_t i = 0; i < total; ++i) {
    {
      ReadLock lock(mutex_);
      RECIS_RETURN_IF_ERROR(Usable());
      const Status status = log_->ReadBlock(blocks[i], &value);
      if (!status.ok()) damage.push_back(status.message());
    }
    if (i % kVerifiedBlocks == 0) progress(i, total);
  }
  progress(total, total);
  return damage;
}

std::shared_ptr<StoreMember> Store::Member(const std::string& name) const {
  const auto found = members_.find(name);
  return found == members_.end() ? nullptr : found->second;
}

void Store::Join(const std::string& name, uint32_t number, std::shared_ptr<StoreMember> member) {
  tables_.emplace(name, number);
  members_.emplace(name, std::move(member));
  next_scan_ = 0;  // its blocks can be cleaned from now on
}

uint32_t Store::TableNumber(const std::string& name, bool* known) const {
  const auto found = tables_.find(name);
  *known = found != tables_.end();
  if (*known) return found->second;
  uint32_t number = 1;
  for (const auto& [other, taken] : tables_) number = std::max(number, taken + 1);
  return number;
}

std::string Store::KeyOf(uint32_t table, const std::string& name) {
  return kTableKey + std::to_string(table) + "/" + name;
}

Status Store::ForEachValue(
    uint32_t table, const std::function<void(std::string_view, std::string_view)>& use) const {
  const std::string prefix = KeyOf(table, "");
  return log_->ForEachValue(prefix, [&](std::string_view key, std::string_view value) {
    key.remove_prefix(prefix.size());
    use(key, value);
  });
}

Status Store::ForEachEntry(uint32_t table,
                           const std::function<void(int64_t, Row, Location)>& use) const {
  std::vector<std::pair<Sequence, BlockNumber>> numbers;
  for (BlockNumber number = 0; number < catalog_.end(); ++number) {
    const Catalog::Entry& entry = catalog_.at(number);
    if (!entry.in_use || entry.table != table || entry.live_rows == 0) continue;
    numbers.emplace_back(entry.sequence, number);
  }
  std::sort(numbers.begin(), numbers.end());
  std::vector<Sequence> blocks;
  for (const auto& [sequence, number] : numbers) blocks.push_back(sequence);
  auto next = numbers.begin();  // blocks come in their order
  return log_->ReadIds(
      blocks, [&](Sequence /*sequence*/, const int64_t* ids, const Row* rows, uint32_t count) {
        const BlockNumber number = (next++)->second;
        for (uint32_t i = 0; i < count; ++i) {
          if (catalog_.Live(number, i)) use(ids[i], rows[i], Location::Cold(number, i));
        }
      });
}

void Store::Append(BlockNumber number) {
  if (catalog_.at(number).live_rows == 0) return catalog_.Abandon(number);
  catalog_.Close(number, log_->NextSequence());
  ++appended_;
  log_->Append(catalog_.at(number).block, queue_bytes_);
  catalog_.Durable(log_->durable());
}

int64_t Store::Grant(Tier& tier, int64_t block_bytes, int64_t blocks) {
  const auto room = [&] { return (options_.hot_bytes - hot_bytes_) / block_bytes; };
  if (room() < blocks) {
    // Up to its equal share a table may take from the one that has most.
    int64_t tables = 0;
    Tier* richest = nullptr;
    for (const auto& [name, member] : members_) {
      ++tables;
      Tier& other = member->tier();
      if (&other != &tier && (richest == nullptr || other.hot_bytes() > richest->hot_bytes())) {
        richest = &other;
      }
    }
    const int64_t share = options_.hot_bytes / std::max<int64_t>(tables, 1);
    const int64_t lacking =
        std::min(blocks * block_bytes - (options_.hot_bytes - hot_bytes_),
                 std::max(share - tier.hot_bytes(), tier.hot_bytes() == 0 ? block_bytes : 0));
    if (richest != nullptr && lacking > 0 && richest->hot_bytes() > share) {
      richest->GiveUp(std::min(lacking, richest->hot_bytes() - share));
    } else if (richest != nullptr && tier.hot_bytes() == 0) {
      richest->GiveUp(block_bytes);
    }
  }
  const int64_t granted = std::min(room(), blocks);
  hot_bytes_ += granted * block_bytes;
  return granted;
}

Tier* Store::TierOf(uint32_t table) const {
  for (const auto& [name, member] : members_) {
    if (tables_.at(name) == table) return &member->tier();
  }
  return nullptr;
}

void Store::CleanSome() {
  for (const Sequence sequence : catalog_.TakeDiscards()) log_->Discard(sequence);
  if (!catalog_.Wasteful(kWasteful, kSlackBytes)) {
    appended_ = 0;
    return;
  }
  if (to_clean_.empty()) {
    // The waste may lie in tables that are not here. Then a scan for each spill finds nothing.
    const Sequence end = log_->EndSequence();
    if (end < next_scan_) return;
    ++stats_.scans;
    const auto absent = [this](uint32_t table) { return TierOf(table) == nullptr; };
    for (const BlockNumber number : catalog_.ToClean(kThrifty, kSlackBytes, absent)) {
      to_clean_.emplace_back(number, catalog_.at(number).sequence);
    }
    std::reverse(to_clean_.begin(), to_clean_.end());
    const auto blocks = static_cast<Sequence>(catalog_.blocks());
    if (to_clean_.empty()) next_scan_ = end + blocks / kRescanPart;
  }
  int64_t left = std::max(kMinCleaned, kCleanedPerAppended * std::exchange(appended_, 0));
  while (left-- > 0 && !to_clean_.empty()) {
    const auto [number, sequence] = to_clean_.back();
    to_clean_.pop_back();
    const Catalog::Entry& entry = catalog_.at(number);
    if (entry.sequence != sequence) continue;  // given up since, or another by now
    const int64_t bytes = static_cast<int64_t>(entry.live_rows) * entry.record_bytes;
    // A damaged block keeps its entries: whoever asks for one of them is told.
    if (TierOf(entry.table)->Clean(number).ok()) stats_.cleaned_bytes += bytes;
  }
  for (const Sequence sequence : catalog_.TakeDiscards()) log_->Discard(sequence);
}

}  // namespace recis
