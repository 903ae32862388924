// Arrays cut out of large mappings in large pages: arrays smaller than a large page share
// one, and the place of an array that was given back is used again.
//
// Threads: any. Arrays must be gone before their pool.
// Invariants:
//  (1) Free ranges do not overlap, and no two of them touch.
//  (2) While no array is out, the pool holds no memory.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/status.h"
#include "device/memory.h"

namespace recis {

class ArrayPool {
 public:
  // Bytes of a pool, given back to it at the end.
  class Array {
   public:
    Array() = default;
    Array(Array&& other) noexcept
        : pool_(other.pool_),
          data_(std::exchange(other.data_, nullptr)),
          bytes_(std::exchange(other.bytes_, 0)) {}
    Array& operator=(Array&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(data_, other.data_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Array() {
      if (data_ != nullptr) pool_->Put(data_, bytes_);
    }
    std::byte* data() const { return data_; }
    size_t bytes() const { return bytes_; }

   private:
    friend class ArrayPool;
    Array(ArrayPool* pool, std::byte* data, size_t bytes)
        : pool_(pool), data_(data), bytes_(bytes) {}

    ArrayPool* pool_ = nullptr;
    std::byte* data_ = nullptr;
    size_t bytes_ = 0;
  };

  // Zeroed, at least `bytes` of them, on a page boundary.
  Result<Array> Get(size_t bytes);
  // Address space held, free ranges included.
  size_t bytes() const;

 private:
  using FreeRanges = std::map<std::byte*, size_t>;  // address -> bytes

  Status Extend(size_t bytes);                  // REQUIRES mutex_
  void AddFree(std::byte* data, size_t bytes);  // REQUIRES mutex_
  void Put(std::byte* data, size_t bytes) noexcept;

  mutable std::mutex mutex_;
  std::vector<Slab> slabs_;  // GUARDED_BY(mutex_)
  size_t mapped_ = 0;        // GUARDED_BY(mutex_): bytes of slabs_
  size_t used_ = 0;          // GUARDED_BY(mutex_): bytes of arrays that are out
  FreeRanges free_;          // GUARDED_BY(mutex_)
};

}  // namespace recis
