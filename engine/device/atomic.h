// Atomic operations on memory that the items of one pass share.
//
// All are relaxed: nothing is published within a pass. What one item writes, another reads only
// in a later pass, and executors order passes. An item that must see another's writes in the same
// pass has an algorithm wrong.
//
// Threads: any. What is touched by these in a pass is touched by nothing else in that pass.
#pragma once

#include <cstdint>

#include "base/host_device.h"

#if !defined(__CUDA_ARCH__)
#include <atomic>

#include "base/yield.h"
#endif

namespace recis {

template <class T>
RECIS_HOST_DEVICE T AtomicLoad(const T* at) {
#if defined(__CUDA_ARCH__)
  return __nv_atomic_load_n(const_cast<T*>(at), __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
#else
  MaybeYield();
  return std::atomic_ref<T>(*const_cast<T*>(at)).load(std::memory_order_relaxed);
#endif
}

// Writes `desired` where `expected` stands. Returns what stood there.
template <class T>
RECIS_HOST_DEVICE T AtomicCompareExchange(T* at, T expected, T desired) {
#if defined(__CUDA_ARCH__)
  __nv_atomic_compare_exchange_n(at, &expected, desired, /*weak=*/false, __NV_ATOMIC_RELAXED,
                                 __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
#else
  MaybeYield();
  std::atomic_ref<T>(*at).compare_exchange_strong(expected, desired, std::memory_order_relaxed);
#endif
  return expected;
}

template <class T>
RECIS_HOST_DEVICE void AtomicAdd(T* at, T value) {
#if defined(__CUDA_ARCH__)
  __nv_atomic_fetch_add(at, value, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
#else
  MaybeYield();
  std::atomic_ref<T>(*at).fetch_add(value, std::memory_order_relaxed);
#endif
}

template <class T>
RECIS_HOST_DEVICE void AtomicMin(T* at, T value) {
#if defined(__CUDA_ARCH__)
  __nv_atomic_fetch_min(at, value, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
#else
  for (T seen = AtomicLoad(at); value < seen;) {
    const T found = AtomicCompareExchange(at, seen, value);
    if (found == seen) return;
    seen = found;
  }
#endif
}

template <class T>
RECIS_HOST_DEVICE void AtomicMax(T* at, T value) {
#if defined(__CUDA_ARCH__)
  __nv_atomic_fetch_max(at, value, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
#else
  for (T seen = AtomicLoad(at); seen < value;) {
    const T found = AtomicCompareExchange(at, seen, value);
    if (found == seen) return;
    seen = found;
  }
#endif
}

}  // namespace recis
