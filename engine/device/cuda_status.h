// Errors of the CUDA runtime as Status. Only in builds with CUDA.
//
// Threads: any.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "base/status.h"

namespace recis {

// `doing` is what was asked for: "cuda:0: copying 8 bytes".
// An error of a kernel shows in whatever call comes next, so the message does not say whose it is.
Status CudaStatus(cudaError_t error, const std::string& doing);

// Why there is no GPU, from the error and from the version that the driver says it has (12040 is
// 12.4; 0 without a driver).
Status NoGpu(cudaError_t error, int driver_version);

std::string VersionText(int version);

}  // namespace recis
