// What stands for CUDA in a build without it.
#include "device/device_kernels.h"
#include "device/space.h"

namespace recis {
namespace {

Status Missing() {
  return Unavailable(
      "this build of recis has no CUDA. Build it where nvcc is, or let the build fetch a compiler: "
      "pip install --config-settings=cmake.define.RECIS_CUDA=PIP .");
}

}  // namespace

Result<std::shared_ptr<Space>> CudaSpace(int) { return Missing(); }
Result<std::shared_ptr<DeviceKernels>> CudaKernels(std::shared_ptr<Space>, int) {
  return Missing();
}

std::string CudaVersion() { return ""; }

}  // namespace recis
