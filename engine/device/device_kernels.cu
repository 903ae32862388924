#define RECIS_ONE_LANE
#include "device/device_kernels_impl.h"
#include "device/executor_cuda.cuh"

namespace recis {

Result<std::shared_ptr<DeviceKernels>> CudaKernels(std::shared_ptr<Space> space, int index) {
  return std::shared_ptr<DeviceKernels>(
      std::make_shared<KernelsOn<CudaExecutor>>(CudaExecutor(std::move(space), index)));
}

}  // namespace recis
