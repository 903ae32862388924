// Sums rows of a gradient by id. See kernels_impl.h.
#pragma once

#include "device/kernels.h"
#include "device/vector_impl.h"

namespace recis {
namespace {

// Sums kVectors vectors of columns at once, so that they stay in registers.
template <int kVectors, class T, class S>
RECIS_INLINE void SumColumns(const T* values, int64_t dim, const uint32_t* positions, int64_t count,
                             bool fresh, S divisor, S* sum, int last) {
  constexpr int kWidth = kLanes<S>;
  Vector<S> total[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int lanes = v + 1 == kVectors ? last : kWidth;
    total[v] = Load<S>(values + positions[0] * dim + v * kWidth, lanes);
  }
  for (int64_t k = 1; k < count; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      const int lanes = v + 1 == kVectors ? last : kWidth;
      total[v] = total[v] + Load<S>(values + positions[k] * dim + v * kWidth, lanes);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const int lanes = v + 1 == kVectors ? last : kWidth;
    if (divisor != 1) total[v] = total[v] / divisor;
    if (!fresh) total[v] = Load<S>(sum + v * kWidth, lanes) + total[v];
    Store<S>(total[v], sum + v * kWidth, lanes);
  }
}

template <class T, class S>
void SumSegments(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  constexpr int kWidth = kLanes<S>;
  const T* values = static_cast<const T*>(args.values);
  for (int64_t segment = begin; segment < end; ++segment) {
    if (args.targets[segment] == SegmentSumArgs::kSkip) continue;
    const uint32_t first = args.offsets[segment];
    const int64_t count = args.offsets[segment + 1] - first;
    const uint32_t* positions = args.positions + first;
    S* sum = static_cast<S*>(args.sums) + args.targets[segment] * args.dim;
    const bool fresh = args.fresh[segment];
    const S divisor = static_cast<S>(args.mean ? args.divisor * count : args.divisor);
    int64_t column = 0;
    for (; column + 4 * kWidth <= args.dim; column += 4 * kWidth) {
      SumColumns<4>(values + column, args.dim, positions, count, fresh, divisor, sum + column,
                    kWidth);
    }
    for (; column < args.dim; column += kWidth) {
      const int64_t left = args.dim - column;
      const int lanes = left < kWidth ? static_cast<int>(left) : kWidth;
      SumColumns<1>(values + column, args.dim, positions, count, fresh, divisor, sum + column,
                    lanes);
    }
  }
}

void SegmentSum(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  switch (args.dtype) {
    case DType::kFloat32:
      return SumSegments<float, float>(args, begin, end);
    case DType::kFloat64:
      return SumSegments<double, double>(args, begin, end);
    case DType::kFloat16:
      return SumSegments<Half, float>(args, begin, end);
    case DType::kBFloat16:
      return SumSegments<BFloat16, float>(args, begin, end);
    default:
      __builtin_unreachable();  // integer tables take no gradient
  }
}

}  // namespace
}  // namespace recis
