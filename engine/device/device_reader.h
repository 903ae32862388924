// Reads memory of a device into the host's, some at a time.
//
// Reads are enqueued behind what the device has to do by then, and go to pinned memory on a stream
// of their own. So the device goes on meanwhile, and who waits for them waits for nothing that is
// enqueued later.
//
// Threads: one at a time; Take() needs no device, so it may run while another thread uses that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/row.h"
#include "base/status.h"
#include "device/device_kernels.h"
#include "device/device_memory.h"
#include "device/space.h"

namespace recis {

class DeviceReader {
 public:
  // Of so many bytes at a time.
  static Result<std::unique_ptr<DeviceReader>> Make(std::shared_ptr<Device> device, size_t bytes);
  ~DeviceReader();

  // Enqueues a read of memory that does not change until Take(). REQUIRES: room for it.
  Status Add(const std::byte* from, size_t bytes);
  // The first `bytes` of each of these records, which may change afterwards. REQUIRES: room for
  // them, and that nothing was added since the last Take().
  Status AddRecords(const DeviceTableView& table, const Row* rows, int64_t n, size_t bytes);
  // Waits for all that was added: its bytes, one after the other, until more is added.
  Result<const std::byte*> Take();

  size_t room() const { return room_ - added_; }

 private:
  DeviceReader(std::shared_ptr<Device> device, size_t bytes)
      : space_(device->space), device_(std::move(device)), room_(bytes) {}

  const std::shared_ptr<Space> space_;
  const std::shared_ptr<Device> device_;
  Stream stream_ = nullptr;
  const size_t room_;
  size_t added_ = 0;
  DeviceMemory collected_;       // records, and after them which rows'
  std::byte* pinned_ = nullptr;  // the same
};

}  // namespace recis
