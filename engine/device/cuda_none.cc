// What stands for CUDA in a build without it.
#include "device/space.h"

namespace recis {

Result<std::shared_ptr<Space>> CudaSpace(int) {
  return Unavailable(
      "this build of recis has no CUDA. Build it where nvcc is, or let the build fetch a compiler: "
      "pip install --config-settings=cmake.define.RECIS_CUDA=PIP .");
}

std::string CudaVersion() { return ""; }

}  // namespace recis
