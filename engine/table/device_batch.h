// What one lookup found, in memory of the device: a Batch that is there.
//
// Threads: one at a time, beside those that use the table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "device/device_memory.h"
#include "table/batch.h"

namespace recis {

// Distinct ids in order of first occurrence.
struct DeviceNumbers {
  // Arrays for n ids.
  static size_t Bytes(int64_t n);
  static DeviceNumbers Take(int64_t n, DeviceArrays* arrays);

  int64_t n = 0;
  int64_t* ids = nullptr;       // (n): as many as there are distinct ones
  uint32_t* inverse = nullptr;  // (n): which distinct id each position holds
  uint32_t* numbers = nullptr;  // (n + 1)

  const uint32_t* count() const { return numbers + n; }  // on the device
};

struct DeviceBatch {
  // A copy in the host's memory. Waits for the device, or for that stream of it.
  Result<std::shared_ptr<Batch>> OnHost() const { return OnHost(memory.device().stream); }
  Result<std::shared_ptr<Batch>> OnHost(Stream stream) const;
  // How many distinct ids there are. Waits as OnHost() does.
  Result<int64_t> CountDistinct() const { return CountDistinct(memory.device().stream); }
  Result<int64_t> CountDistinct(Stream stream) const;

  int64_t size = 0;             // ids asked for, repeats included
  DeviceMemory memory;          // of the arrays
  DeviceNumbers distinct;       // of them
  Row* rows = nullptr;          // (size): theirs; kNoRow where an id has none
  std::vector<uint32_t> times;  // (size) occurrences each position stands for; none: one each
  uint64_t evictions = 0;       // the table's count when `rows` was true
  bool all_admitted = false;    // whether each of `rows` was one then
};

}  // namespace recis
