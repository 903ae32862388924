#include "device/cuda_status.h"

#include <cstdlib>

namespace recis {

std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Status CudaStatus(cudaError_t error, const std::string& doing) {
  if (error == cudaSuccess) return {};
  std::string message = doing + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) return OutOfMemory(std::move(message));
  if (error == cudaErrorInitializationError) {
    message +=
        ". A forked child cannot use CUDA: start processes with the method spawn or forkserver";
  } else {
    message += ". Run again with CUDA_LAUNCH_BLOCKING=1, or under compute-sanitizer, to see where";
  }
  return Unavailable(std::move(message));
}

Status NoGpu(cudaError_t error, int driver_version) {
  if (driver_version == 0) {
    return Unavailable(
        "this machine has no NVIDIA driver: libcuda.so.1 is not there. Install one; a container "
        "gets the host's with --gpus=all");
  }
  if (error == cudaErrorInsufficientDriver) {
    return Unavailable("the NVIDIA driver knows CUDA up to " + VersionText(driver_version) +
                       ", and recis is built with CUDA " + VersionText(CUDART_VERSION) +
                       ". Update the driver, or build recis with a toolkit as old as that");
  }
  if (error == cudaErrorNoDevice) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return Unavailable(
        std::string("the NVIDIA driver has no GPU for this process: see what nvidia-smi lists. ") +
        (visible == nullptr ? "CUDA_VISIBLE_DEVICES is not set"
                            : "CUDA_VISIBLE_DEVICES is '" + std::string(visible) + "'"));
  }
  return CudaStatus(error, "looking for a GPU");
}

}  // namespace recis
