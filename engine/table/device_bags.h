// Bags whose embeddings lie on a device: their sums are taken there, with the bits of Bags.
//
// Threads: one at a time. They work on the stream that the thread uses.
#pragma once

#include <cstdint>
#include <memory>

#include "device/device_memory.h"
#include "table/bags.h"

namespace recis {

class DeviceBags {
 public:
  // What the bags are is known, and checked, on the host. Copies it to the device, and waits for
  // that.
  static Result<DeviceBags> Make(std::shared_ptr<Device> device, const Bags& bags);

  // As those of Bags, with all arrays on the device. They wait for nothing.
  Status Sum(const void* embeddings, DType dtype, int64_t dim, const void* weights, bool mean,
             void* out) const;
  Status Spread(const void* grads, DType dtype, int64_t dim, const void* weights, bool mean,
                void* out) const;

 private:
  DeviceBags() = default;

  std::shared_ptr<Device> device_;
  int64_t n_ = 0;
  int64_t bags_ = 0;
  int64_t distinct_ = 0;
  DeviceMemory memory_;  // of the arrays
  uint32_t* inverse_ = nullptr;
  uint32_t* bag_of_each_ = nullptr;
  uint32_t* offsets_ = nullptr;
};

}  // namespace recis
