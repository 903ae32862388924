#include "device/device_reader.h"

#include <memory>
#include <utility>

#include "base/testing.h"
#include "device/late_device_testing.h"

namespace recis::testing {
namespace {

// The late device ends the process if its memory is written after that was given back.
TEST(WhatNobodyTakesIsWaitedFor) {
  constexpr size_t kBytes = 1000;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto device = LateDevice(seed);
    const DeviceMemory memory = std::move(DeviceMemory::Get(device, kBytes).value());
    EXPECT(device->space->Fill(memory.data(), 7, kBytes, device->stream).ok());
    std::unique_ptr<DeviceReader> reader = std::move(DeviceReader::Make(device, kBytes).value());
    EXPECT(reader->Add(memory.data(), kBytes).ok());
    reader.reset();
  }
}

}  // namespace
}  // namespace recis::testing
