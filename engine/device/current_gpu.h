// Only in builds with CUDA.
#pragma once

#include <cuda_runtime_api.h>

namespace recis {

// Makes a GPU the current one of this thread while it lives. The default stream is that of the
// current GPU, kernels start on it, and torch may have made another one current.
class CurrentGpu {
 public:
  explicit CurrentGpu(int index) {
    cudaGetDevice(&before_);
    if (before_ != index) cudaSetDevice(index);
    changed_ = before_ != index;
  }
  CurrentGpu(const CurrentGpu&) = delete;
  ~CurrentGpu() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace recis
