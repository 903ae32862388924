#include "device/array_pool.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace recis {
namespace {
constexpr size_t kPageBytes = 4096;
}

void ArrayPool::AddFree(std::byte* data, size_t bytes) {
  auto range = free_.emplace(data, bytes).first;
  const auto next = std::next(range);
  if (next != free_.end() && data + bytes == next->first) {
    range->second += next->second;
    free_.erase(next);
  }
  if (range == free_.begin()) return;
  const auto before = std::prev(range);
  if (before->first + before->second == data) {
    before->second += range->second;
    free_.erase(range);
  }
}

Status ArrayPool::Extend(size_t bytes) {
  // An eighth of what there is: few mappings, and little that is never used.
  Result<Slab> slab = Slab::Map(std::max({bytes, mapped_ / 8, kLargePageBytes}), true);
  if (!slab.ok()) return slab.status();
  slabs_.push_back(std::move(slab.value()));
  mapped_ += slabs_.back().bytes();
  AddFree(slabs_.back().data(), slabs_.back().bytes());
  return {};
}

Result<ArrayPool::Array> ArrayPool::Get(size_t bytes) {
  bytes = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  std::unique_lock<std::mutex> lock(mutex_);
  const auto find = [&] {
    return std::find_if(free_.begin(), free_.end(),
                        [&](const auto& range) { return range.second >= bytes; });
  };
  auto range = find();
  if (range == free_.end()) {
    RECIS_RETURN_IF_ERROR(Extend(bytes));
    range = find();
  }
  const auto [data, room] = *range;
  // The node is used again, so that this cannot fail.
  auto node = free_.extract(range);
  if (room > bytes) {
    node.key() = data + bytes;
    node.mapped() = room - bytes;
    free_.insert(std::move(node));
  }
  used_ += bytes;
  lock.unlock();
  // Fresh memory is zeros, but a page that is read before it is written is found twice, and
  // the second time stops every other processor.
  std::memset(data, 0, bytes);
  return Array(this, data, bytes);
}

void ArrayPool::Put(std::byte* data, size_t bytes) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  used_ -= bytes;
  if (used_ == 0) {
    free_.clear();
    slabs_.clear();
    mapped_ = 0;
  } else {
    AddFree(data, bytes);
  }
}

size_t ArrayPool::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return mapped_;
}

}  // namespace recis
