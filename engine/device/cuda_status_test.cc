#include "device/cuda_status.h"

#include <cstdlib>

#include "base/testing.h"

namespace recis {
namespace {

bool Says(const Status& status, const std::string& words) {
  return status.message().find(words) != std::string::npos;
}

TEST(NoDriverIsSaidBeforeAnythingElse) {
  const Status status = NoGpu(cudaErrorInsufficientDriver, 0);
  EXPECT(status.code() == Code::kUnavailable);
  EXPECT(Says(status, "no NVIDIA driver"), status.message());
}

TEST(AnOldDriverIsToldBothVersions) {
  const Status status = NoGpu(cudaErrorInsufficientDriver, 12040);
  EXPECT(status.code() == Code::kUnavailable);
  EXPECT(Says(status, "12.4") && Says(status, VersionText(CUDART_VERSION)), status.message());
}

TEST(NoGpuNamesWhatHidesIt) {
  setenv("CUDA_VISIBLE_DEVICES", "7", 1);
  const Status hidden = NoGpu(cudaErrorNoDevice, 13000);
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT(Says(hidden, "CUDA_VISIBLE_DEVICES is '7'"), hidden.message());
  EXPECT(Says(NoGpu(cudaErrorNoDevice, 13000), "not set"));
}

TEST(ErrorsNameWhatWasDone) {
  EXPECT(CudaStatus(cudaSuccess, "copying").ok());
  const Status memory = CudaStatus(cudaErrorMemoryAllocation, "cuda:0: pinning 8 bytes");
  EXPECT(memory.code() == Code::kOutOfMemory);
  EXPECT(Says(memory, "cuda:0: pinning 8 bytes: out of memory"), memory.message());
  const Status address = CudaStatus(cudaErrorIllegalAddress, "cuda:0: copying 8 bytes");
  EXPECT(address.code() == Code::kUnavailable);
  EXPECT(Says(address, "compute-sanitizer"), address.message());
  EXPECT(Says(CudaStatus(cudaErrorInitializationError, "copying"), "spawn"));
}

}  // namespace
}  // namespace recis
