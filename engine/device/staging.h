// Memory of the host and as much of a device, by which they exchange arrays, some at a time.
//
// Threads: one at a time, as its device.
// Invariants: what is copied was taken since the last Clear().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "device/device_memory.h"

namespace recis {

class Staging {
 public:
  static Result<std::unique_ptr<Staging>> Make(std::shared_ptr<Device> device, size_t bytes);
  ~Staging() { device_->space->FreeHost(host_); }
  Staging(const Staging&) = delete;

  // An array of both memories.
  template <class T>
  struct Array {
    T* host;
    T* device;
  };
  // Into how many arrays of so many items it can be cut, whose elements take `bytes` together.
  int64_t Items(size_t bytes) const {
    return static_cast<int64_t>((memory_.bytes() - kMostArrays * 256) / bytes);
  }
  static size_t BytesFor(size_t bytes) { return bytes + kMostArrays * 256; }

  // What was taken may be taken again.
  void Clear() { used_ = 0; }
  // REQUIRES: room for it, and at most kMostArrays.
  template <class T>
  Array<T> Take(int64_t n) {
    const size_t at = used_;
    used_ += ArrayBytes<T>(n);
    RECIS_CHECK(used_ <= memory_.bytes());
    return {reinterpret_cast<T*>(host_ + at), reinterpret_cast<T*>(memory_.data() + at)};
  }

  // Copies all that was taken. What the host has may change once it is waited for.
  Status ToDevice();
  // Copies an array, and waits for it.
  template <class T>
  Status ToHost(const Array<T>& array, int64_t n) const {
    return device_->Fetch(array.device, static_cast<size_t>(n) * sizeof(T), array.host);
  }

  // Of an array (n, bytes) of the device: row positions[i] becomes row from[i] of `values`; or
  // these rows are copied to `values`. Both use all of this memory, as often as it takes, and wait.
  Status Scatter(const std::vector<uint32_t>& positions, const std::vector<uint32_t>& from,
                 const std::byte* values, size_t bytes, int64_t n, std::byte* array);
  Status Collect(const std::vector<uint32_t>& positions, const std::byte* array, size_t bytes,
                 int64_t n, std::byte* values);

 private:
  static constexpr size_t kMostArrays = 4;

  Staging(std::shared_ptr<Device> device, DeviceMemory memory, std::byte* host)
      : device_(std::move(device)), memory_(std::move(memory)), host_(host) {}

  const std::shared_ptr<Device> device_;
  const DeviceMemory memory_;
  std::byte* const host_;  // pinned
  size_t used_ = 0;
};

}  // namespace recis
