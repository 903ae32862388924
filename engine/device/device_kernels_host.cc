// The emulated device.
#include <bit>

#define RECIS_ONE_LANE
#include "device/device_kernels_impl.h"
#include "device/executor_host.h"

namespace recis {

uint32_t NumberingArgs::PlacesFor(int64_t n) {
  return std::bit_ceil(static_cast<uint32_t>(2 * n) | 1);
}

std::shared_ptr<DeviceKernels> HostKernels() {
  return std::make_shared<KernelsOn<HostExecutor>>(HostExecutor());
}

}  // namespace recis
