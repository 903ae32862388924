#define RECIS_ONE_LANE
#include "device/device_kernels_impl.h"
#include "device/executor_lanes.h"

namespace recis {

std::shared_ptr<DeviceKernels> LanesKernels() {
  return std::make_shared<KernelsOn<LanesExecutor>>(LanesExecutor());
}

}  // namespace recis
