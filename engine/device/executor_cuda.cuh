// Runs device algorithms on a GPU: see executor_host.h. Only *.cu may include this.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <memory>
#include <string>
#include <utility>

#include "device/cuda_status.h"
#include "device/current_gpu.h"
#include "device/space.h"

namespace recis {

template <int kSize>
class CudaTile {
 public:
  static constexpr int kLanes = kSize;

  template <class T>
  struct PerLane {
    __device__ T& at(int) { return value; }
    __device__ const T& at(int) const { return value; }
    T value;
  };

  __device__ CudaTile()
      : group_(
            cooperative_groups::tiled_partition<kLanes>(cooperative_groups::this_thread_block())) {}

  template <class F>
  __device__ void Each(F f) const {
    f(lane());
  }
  template <class F>
  __device__ auto Map(F f) const {
    return PerLane<decltype(f(0))>{f(lane())};
  }
  template <class F>
  __device__ bool Any(F f) const {
    return group_.any(f(lane()));
  }
  template <class F>
  __device__ int First(F f) const {
    const unsigned holds = group_.ballot(f(lane()));
    return holds == 0 ? kLanes : __ffs(static_cast<int>(holds)) - 1;
  }
  template <class F>
  __device__ auto From(int from, F f) const {
    using T = decltype(f());
    return group_.shfl(lane() == from ? f() : T{}, from);
  }
  template <class F>
  __device__ auto Fold(F f) const {
    auto sum = f(lane());
    for (int half = kLanes / 2; half > 0; half /= 2) sum += group_.shfl_down(sum, half);
    return group_.shfl(sum, 0);
  }

 private:
  __device__ int lane() const { return static_cast<int>(group_.thread_rank()); }

  cooperative_groups::thread_block_tile<kLanes> group_;
};

inline constexpr int kPassThreads = 256;
// That a multiprocessor has room for at least. Left to itself the compiler saves registers for
// eight, and waits after every few loads.
inline constexpr int kPassBlocks = 4;

template <int kLanes, class Body>
__global__ void __launch_bounds__(kPassThreads, kPassBlocks) Pass(int64_t n, Body body) {
  const int64_t item = (int64_t{blockIdx.x} * kPassThreads + threadIdx.x) / kLanes;
  if (item < n) body(CudaTile<kLanes>(), item);
}

class CudaExecutor {
 public:
  CudaExecutor(std::shared_ptr<Space> space, int index) : space_(std::move(space)), index_(index) {}

  template <int kLanes, class Body>
  void Run(int64_t n, const Body& body, Stream stream) {
    if (n == 0 || !first_error_.ok()) return;
    const CurrentGpu current(index_);
    constexpr int64_t kItems = kPassThreads / kLanes;
    Pass<kLanes><<<static_cast<unsigned>((n + kItems - 1) / kItems), kPassThreads, 0,
                   static_cast<cudaStream_t>(stream)>>>(n, body);
    Note(cudaGetLastError());
  }

  void Scan(uint32_t* values, int64_t n, Stream stream) {
    WithScratch(stream, [&](void* scratch, size_t& bytes) {
      return cub::DeviceScan::ExclusiveSum(scratch, bytes, values, values, n,
                                           static_cast<cudaStream_t>(stream));
    });
  }

  void Sort(const uint32_t* keys, const uint32_t* values, uint32_t* sorted_keys,
            uint32_t* sorted_values, int bits, int64_t n, Stream stream) {
    if (n == 0) return;
    WithScratch(stream, [&](void* scratch, size_t& bytes) {
      return cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, sorted_keys, values,
                                             sorted_values, n, 0, bits,
                                             static_cast<cudaStream_t>(stream));
    });
  }

  Status status() { return std::exchange(first_error_, Status()); }

 private:
  // Calls CUB as it wants to be called: once to learn how much scratch it needs, and with it.
  template <class Call>
  void WithScratch(Stream stream, Call call) {
    const CurrentGpu current(index_);
    size_t bytes = 0;
    if (!first_error_.ok() || !Note(call(nullptr, bytes))) return;
    Result<std::byte*> scratch = space_->Allocate(bytes, stream);
    if (!scratch.ok()) {
      Latch(scratch.status());
      return;
    }
    Note(call(scratch.value(), bytes));
    space_->Free(scratch.value(), stream);
  }
  bool Note(cudaError_t error) {
    if (error == cudaSuccess) return true;
    Latch(CudaStatus(error, space_->name() + ": launching a kernel"));
    return false;
  }

  void Latch(Status error) {
    if (first_error_.ok()) std::swap(first_error_, error);
  }

  std::shared_ptr<Space> space_;
  int index_;
  Status first_error_;
};

}  // namespace recis
