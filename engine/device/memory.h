// Memory of the CPU device: slabs straight from the system, and a cache of buffers.
//
// Threads: Slab and Buffer are owned by one thread at a time; BufferCache from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace recis {

inline constexpr size_t kLargePageBytes = size_t{2} << 20;

// Asks for 2 MiB pages for slabs mapped from now on. They speed up random reads of
// small rows and make growth slower where the host must find the memory, so they are
// off unless asked for.
void SetLargePages(bool on);
bool LargePages();

// Zeroed pages from the system, returned to it at the end. Untouched pages cost nothing.
class Slab {
 public:
  // Large pages are asked for if the slab has room for one.
  static Result<Slab> Map(size_t bytes, bool large_pages = LargePages());

  Slab(Slab&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Slab& operator=(Slab&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Slab();

  // Hands the pages from this offset on back to the system; they read as zeros again.
  void Discard(size_t offset);

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Slab(std::byte* data, size_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_;
  size_t bytes_;
};

// A block of uninitialised memory that goes back to the cache at the end.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        warm_(other.warm_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(warm_, other.warm_);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }  // at least what was asked for
  bool warm() const { return warm_; }      // its pages have been touched before
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  friend class BufferCache;
  Buffer(std::byte* data, size_t bytes, bool warm) : data_(data), bytes_(bytes), warm_(warm) {}

  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  bool warm_ = false;
};

// Keeps the memory of recent batches. A batch of 65,536 x 128 floats is past malloc's
// mmap threshold, so without this each call would pay for thousands of page faults.
class BufferCache {
 public:
  static constexpr size_t kMaxIdleBytes = size_t{256} << 20;

  // 64-byte aligned; throws std::bad_alloc when the system has no memory.
  static Buffer Get(size_t bytes);
  static size_t IdleBytes();
  static void Clear();

 private:
  friend class Buffer;
  static void Put(std::byte* data, size_t bytes) noexcept;
};

}  // namespace recis
