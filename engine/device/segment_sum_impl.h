// Sums rows of a gradient by id. See kernels_impl.h.
#pragma once

#include "device/kernels.h"
#include "device/vector_impl.h"

namespace recis {
namespace {

// Vectors of columns that are summed at once, so that they stay in registers.
template <class S, int kVectors>
struct Columns {
  Vector<S> at[kVectors];
};

// A run of positions, one at least. The last vector has `last` lanes.
template <int kVectors, bool kWeighted, class T, class S>
RECIS_INLINE Columns<S, kVectors> SumRun(const T* values, int64_t dim, const uint32_t* positions,
                                         const S* weights, int64_t count, int last) {
  constexpr int kWidth = kLanes<S>;
  const auto row = [=](int64_t k, int v) __attribute__((always_inline)) {
    const int lanes = v + 1 == kVectors ? last : kWidth;
    const Vector<S> value = Load<S>(values + positions[k] * dim + v * kWidth, lanes);
    if constexpr (kWeighted) return value * weights[k];
    return value;
  };
  Columns<S, kVectors> total;
  for (int v = 0; v < kVectors; ++v) total.at[v] = row(0, v);
  for (int64_t k = 1; k < count; ++k) {
    for (int v = 0; v < kVectors; ++v) total.at[v] = total.at[v] + row(k, v);
  }
  return total;
}

template <class S, int kVectors>
RECIS_INLINE void Put(const Columns<S, kVectors>& total, bool fresh, S divisor, S* sum, int last) {
  constexpr int kWidth = kLanes<S>;
  for (int v = 0; v < kVectors; ++v) {
    const int lanes = v + 1 == kVectors ? last : kWidth;
    Vector<S> value = total.at[v];
    if (divisor != 1) value = value / divisor;
    if (!fresh) value = Load<S>(sum + v * kWidth, lanes) + value;
    Store<S>(value, sum + v * kWidth, lanes);
  }
}

template <int kVectors, bool kWeighted, class T, class S>
RECIS_INLINE void SumColumns(const T* values, int64_t dim, const uint32_t* positions,
                             const S* weights, int64_t count, bool fresh, S divisor, S* sum,
                             int last) {
  constexpr int64_t kRun = SegmentSumArgs::kRun;
  const auto run = [=](int64_t first) __attribute__((always_inline)) {
    const int64_t length = count - first < kRun ? count - first : kRun;
    return SumRun<kVectors, kWeighted>(values, dim, positions + first,
                                       kWeighted ? weights + first : weights, length, last);
  };
  Columns<S, kVectors> total = run(0);
  for (int64_t first = kRun; first < count; first += kRun) {
    const Columns<S, kVectors> next = run(first);
    for (int v = 0; v < kVectors; ++v) total.at[v] = total.at[v] + next.at[v];
  }
  Put(total, fresh, divisor, sum, last);
}

// The row of a segment's sum, or kSkip.
RECIS_INLINE int64_t TargetOf(const SegmentSumArgs& args, int64_t segment) {
  return args.targets == nullptr ? segment : args.targets[segment];
}
RECIS_INLINE bool IsFresh(const SegmentSumArgs& args, int64_t segment) {
  return args.fresh == nullptr || args.fresh[segment];
}

template <bool kWeighted, class T, class S>
void SumSegments(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  constexpr int kWidth = kLanes<S>;
  const T* values = static_cast<const T*>(args.values);
  for (int64_t segment = begin; segment < end; ++segment) {
    const int64_t target = TargetOf(args, segment);
    if (target == SegmentSumArgs::kSkip) continue;
    const uint32_t first = args.offsets[segment];
    const int64_t count = args.offsets[segment + 1] - first;
    const uint32_t* positions = args.positions + first;
    const S* weights = kWeighted ? static_cast<const S*>(args.weights) + first : nullptr;
    S* sum = static_cast<S*>(args.sums) + target * args.dim;
    const bool fresh = IsFresh(args, segment);
    if (count == 0) {
      if (fresh) __builtin_memset(sum, 0, sizeof(S) * static_cast<size_t>(args.dim));
      continue;
    }
    const S divisor = static_cast<S>(args.mean ? args.divisor * count : args.divisor);
    int64_t column = 0;
    for (; column + 4 * kWidth <= args.dim; column += 4 * kWidth) {
      SumColumns<4, kWeighted>(values + column, args.dim, positions, weights, count, fresh, divisor,
                               sum + column, kWidth);
    }
    for (; column < args.dim; column += kWidth) {
      const int64_t left = args.dim - column;
      const int lanes = left < kWidth ? static_cast<int>(left) : kWidth;
      SumColumns<1, kWeighted>(values + column, args.dim, positions, weights, count, fresh, divisor,
                               sum + column, lanes);
    }
  }
}

template <class T, class S>
void SumSegmentsOf(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  return args.weights == nullptr ? SumSegments<false, T, S>(args, begin, end)
                                 : SumSegments<true, T, S>(args, begin, end);
}

[[maybe_unused]] void SegmentSum(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  switch (args.dtype) {
    case DType::kFloat32:
      return SumSegmentsOf<float, float>(args, begin, end);
    case DType::kFloat64:
      return SumSegmentsOf<double, double>(args, begin, end);
    case DType::kFloat16:
      return SumSegmentsOf<Half, float>(args, begin, end);
    case DType::kBFloat16:
      return SumSegmentsOf<BFloat16, float>(args, begin, end);
    default:
      __builtin_unreachable();  // integer tables take no gradient
  }
}

}  // namespace
}  // namespace recis
