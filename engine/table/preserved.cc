#include "table/preserved.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/thread_pool.h"
#include "table/row_loops.h"

namespace recis {
namespace {

constexpr size_t kSlabBytes = size_t{1} << 20;
constexpr int64_t kCopyGrain = 256;
constexpr int64_t kAheadRows = 8;  // records on their way to the cache
constexpr std::chrono::milliseconds kPatience{50};

}  // namespace

Preserved::Preserved(size_t record_bytes, int64_t pool_bytes, Row end)
    : record_bytes_(record_bytes),
      slab_copies_(std::max<int64_t>(static_cast<int64_t>(kSlabBytes / record_bytes), 1)),
      most_(pool_bytes / static_cast<int64_t>(record_bytes) + 1) {
  touched_.Reserve(end);
}

bool Preserved::IsDone(int64_t id) const {
  return released_ || (!done_.empty() && done_[SliceOf(id, static_cast<uint32_t>(done_.size()))]);
}

bool Preserved::Full() const { return !released_ && copies_.size() >= most_; }

std::byte* Preserved::RecordAt(Row copy) const {
  return slabs_[copy / slab_copies_].data() + copy % slab_copies_ * record_bytes_;
}

void Preserved::MakeRoom(int64_t n) {
  const size_t had = kept_.size(), used = had - free_.size();
  const size_t wanted = std::max(had, used + static_cast<size_t>(n));
  while (slabs_.size() * slab_copies_ < wanted) {
    slabs_.push_back(BufferCache::Get(slab_copies_ * record_bytes_));
  }
  free_.reserve(wanted);
  kept_.resize(wanted, {0, kNoRow});
  for (size_t copy = wanted; copy-- > had;) free_.push_back(static_cast<Row>(copy));
}

Status Preserved::Keep(const RowOfId* rows, int64_t n, const std::byte* const* records) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (released_) return {};
  std::vector<int64_t> keys;
  std::vector<Row> copies;
  std::vector<const std::byte*> sources;
  copies.reserve(n);
  sources.reserve(n);
  for (int64_t i = 0; i < n; ++i) keys.push_back(rows[i].row);
  RECIS_RETURN_IF_ERROR(copies_.Reserve(keys.data(), n));
  MakeRoom(n);
  keys.clear();
  for (int64_t i = 0; i < n; ++i) {
    if (touched_.Has(rows[i].row)) continue;
    touched_.Add(rows[i].row);
    keys.push_back(rows[i].row);
    sources.push_back(records[i]);
    copies.push_back(free_.back());
    free_.pop_back();
    kept_[copies.back()] = rows[i];
  }
  const auto count = static_cast<int64_t>(keys.size());
  ParallelFor(count, kCopyGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAheadRows < end) Fetch(sources[i + kAheadRows], record_bytes_);
      std::memcpy(RecordAt(copies[i]), sources[i], record_bytes_);
    }
  });
  copies_.Insert(keys.data(), copies.data(), count);
  return {};
}

void Preserved::DropDone(std::vector<RowOfId>* rows) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (released_ || !done_.empty()) {
    std::erase_if(*rows, [this](const RowOfId& row) { return IsDone(row.id); });
  }
}

void Preserved::Find(const Row* rows, int64_t n, Copy* copies) const {
  const std::vector<int64_t> keys(rows, rows + n);
  std::vector<Row> found(static_cast<size_t>(n));
  const std::lock_guard<std::mutex> lock(mutex_);
  copies_.Find(keys.data(), n, found.data());
  for (int64_t i = 0; i < n; ++i) {
    copies[i] =
        found[i] == kNoRow ? Copy{0, nullptr} : Copy{kept_[found[i]].id, RecordAt(found[i])};
  }
}

void Preserved::Done(uint32_t slices, uint32_t begin, uint32_t end) {
  const std::lock_guard<std::mutex> lock(mutex_);
  RECIS_CHECK(done_.empty() || done_.size() == slices);
  done_.resize(slices);
  std::fill(done_.begin() + begin, done_.begin() + end, true);
  std::vector<int64_t> gone;
  for (size_t copy = 0; copy < kept_.size(); ++copy) {
    if (kept_[copy].row == kNoRow) continue;
    const uint32_t slice = SliceOf(kept_[copy].id, slices);
    if (slice < begin || slice >= end) continue;
    gone.push_back(kept_[copy].row);
    kept_[copy].row = kNoRow;
    free_.push_back(static_cast<Row>(copy));  // room was made for it
  }
  copies_.Erase(gone.data(), static_cast<int64_t>(gone.size()));
  room_.notify_all();
}

bool Preserved::full() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return Full();
}

bool Preserved::WaitForRoom() const {
  std::unique_lock<std::mutex> lock(mutex_);
  return room_.wait_for(lock, kPatience, [this] { return !Full(); });
}

void Preserved::Release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  released_ = true;
  copies_.Clear();
  kept_.clear();
  free_.clear();
  slabs_.clear();
  room_.notify_all();
}

}  // namespace recis
