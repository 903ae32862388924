#include "device/kernels.h"

#include <cstdlib>
#include <cstring>

#include "device/normal.h"

namespace recis {

int RunnableKernels(const Kernels* (&out)[3]) {
  int count = 0;
  out[count++] = &kBaselineKernels;
#if defined(RECIS_X86)
  if (__builtin_cpu_supports("avx2")) {
    out[count++] = &kAvx2Kernels;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      out[count++] = &kAvx512Kernels;
    }
  }
#endif
  return count;
}

const Kernels& ActiveKernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    const Kernels* runnable[3];
    const int count = RunnableKernels(runnable);
    const char* wanted = std::getenv("RECIS_SIMD");
    for (int i = 0; wanted != nullptr && i < count; ++i) {
      if (std::strcmp(wanted, runnable[i]->name) == 0) return *runnable[i];
    }
    return *runnable[count - 1];
  }();
  return chosen;
}

double NormalQuantile(double probability) { return Quantile(probability); }

double NormalProbability(double z) {
  double low = 0x1p-1022, high = 1 - 0x1p-53;
  if (z <= Quantile(low)) return low;
  if (z >= Quantile(high)) return high;
  // Halving the gap of two doubles ends within 2,100 steps, when none lies between.
  for (;;) {
    const double middle = low + (high - low) / 2;
    if (middle == low || middle == high) return low;
    (Quantile(middle) <= z ? low : high) = middle;
  }
}

}  // namespace recis
