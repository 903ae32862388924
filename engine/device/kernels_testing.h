// What the tests of the kernels share.
#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

#include "device/kernels.h"

namespace recis::testing {

inline std::vector<const Kernels*> Sets() {
  const Kernels* runnable[3];
  const int count = RunnableKernels(runnable);
  std::vector<const Kernels*> sets(static_cast<size_t>(count) + 1, &kOneLaneKernels);
  for (int i = 0; i < count; ++i) sets[i] = runnable[i];
  return sets;
}

using Bytes = std::vector<std::byte>;

template <class T>
Bytes BytesOf(const std::vector<T>& values) {
  const auto* data = reinterpret_cast<const std::byte*>(values.data());
  return {data, data + values.size() * sizeof(T)};
}

// An element as a kernel computes with it: 16-bit floats are widened.
template <class T>
auto Wide(T value) {
  if constexpr (std::is_class_v<T>) {
    return ToFloat(value);
  } else {
    return value;
  }
}

template <class T>
T Narrow(double value) {
  if constexpr (std::is_same_v<T, Half>) {
    return ToHalf(static_cast<float>(value));
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return ToBFloat16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

}  // namespace recis::testing
