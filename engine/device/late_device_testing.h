// An emulated device that is late, as a GPU is.
#pragma once

#include <cstdint>
#include <memory>

#include "device/device_memory.h"

namespace recis::testing {

// What is enqueued is done when somebody waits for it; some of it, at random, sooner. So who does
// not wait reads what was there before or has its own changes read, who does not order two streams
// has them in any order, and new memory is full of garbage.
//
// It has the host's executor. Threads: any.
std::shared_ptr<Device> LateDevice(uint64_t seed);

}  // namespace recis::testing
