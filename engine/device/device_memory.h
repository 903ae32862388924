// Memory of a device, and arrays there that grow.
//
// Threads: a Device is used by one at a time, as is what is made on it; but memory may be given
//   back by any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "base/status.h"
#include "device/device_kernels.h"
#include "device/space.h"

namespace recis {

// Where a table lives: memory, what works on it, and the stream on which it does.
struct Device {
  std::shared_ptr<Space> space;
  std::shared_ptr<DeviceKernels> kernels;
  std::atomic<Stream> stream{nullptr};  // of the last call
  Stream own_stream{nullptr};           // see MakeOwnStreams()
  Stream copy_stream{nullptr};

  ~Device();
  // Two streams beside those of callers, made once: for OnOwnStream, and for what is copied to the
  // host while that goes on.
  Status MakeOwnStreams();
  // What is enqueued from now on is done on another stream, after what is on this one.
  void GoOnAt(Stream next);
  // Copies a few values to the host, and waits for them.
  Status Fetch(const void* from, size_t bytes, void* to) const {
    return FetchOn(stream, from, bytes, to);
  }
  Status FetchOn(Stream on, const void* from, size_t bytes, void* to) const {
    RECIS_RETURN_IF_ERROR(space->Copy(to, from, bytes, on));
    return space->Wait(on);
  }
};

// While it lives, what this thread asks tables of a device for is done on the device's own stream:
// for a caller after what the caller's stream has so far, and that goes on afterwards.
class OnOwnStream {
 public:
  enum class For { kCaller, kBackground };

  OnOwnStream(Device& device, For whom);
  ~OnOwnStream();
  OnOwnStream(const OnOwnStream&) = delete;

 private:
  Device& device_;
  const For whom_;
  const Stream callers_;
};

// The emulated device.
std::shared_ptr<Device> EmulatedDevice(std::shared_ptr<DeviceKernels> kernels = HostKernels(),
                                       std::shared_ptr<Space> space = EmulatedSpace());
// The GPU of this number. Fails as CudaSpace() does.
Result<std::shared_ptr<Device>> CudaDevice(int index);

// Uninitialised bytes, given back once what is on the stream by then is done.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  static Result<DeviceMemory> Get(std::shared_ptr<Device> device, size_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept { Swap(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    Swap(other);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ != nullptr) device_->space->Free(data_, device_->stream);
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const Device& device() const { return *device_; }

 private:
  void Swap(DeviceMemory& other) {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  std::shared_ptr<Device> device_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// What an array of n takes of DeviceArrays.
template <class T>
size_t ArrayBytes(int64_t n) {
  return (static_cast<size_t>(n) * sizeof(T) + 255) / 256 * 256;
}

// Cuts arrays out of memory, one after the other.
class DeviceArrays {
 public:
  explicit DeviceArrays(const DeviceMemory& memory) : next_(memory.data()), left_(memory.bytes()) {}

  template <class T>
  T* Take(int64_t n) {
    const size_t bytes = ArrayBytes<T>(n);
    RECIS_CHECK(bytes <= left_);
    left_ -= bytes;
    return reinterpret_cast<T*>(std::exchange(next_, next_ + bytes));
  }

 private:
  std::byte* next_;
  size_t left_;
};

// Elements in chunks that never move; new ones are zeros.
class DeviceChunks {
 public:
  DeviceChunks(std::shared_ptr<Device> device, size_t element_bytes, uint32_t chunk_elements);

  // Makes elements [0, size) usable. Waits for the device when it grows.
  Status Reserve(int64_t size);
  void Clear() { chunks_.clear(); }

  ChunkView view() const;
  std::byte* At(int64_t i) const {
    return chunks_[i / chunk_elements_].data() + i % chunk_elements_ * element_bytes_;
  }
  // How many lie one after the other, from i on.
  int64_t Run(int64_t i) const { return chunk_elements_ - i % chunk_elements_; }
  int64_t reserved() const { return static_cast<int64_t>(chunks_.size()) * chunk_elements_; }
  size_t bytes() const { return static_cast<size_t>(reserved()) * element_bytes_; }

 private:
  std::shared_ptr<Device> device_;
  size_t element_bytes_;
  uint32_t chunk_elements_;
  std::vector<DeviceMemory> chunks_;
  DeviceMemory addresses_;  // of the chunks
};

}  // namespace recis
