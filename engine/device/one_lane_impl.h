// Vectors of one element: what vector_impl.h has, for who works on a row with many threads.
//
// The rules of the kernels are written over Vector<S>. With these they are the work of one thread
// on one element, the same operations in the same order. See vector_impl.h.
#pragma once

#include "base/dtype.h"

namespace recis {
namespace {

template <class T>
using Vector = T;
template <class T>
constexpr int kLanes = 1;

RECIS_INLINE float Sqrt(float x) { return __builtin_sqrtf(x); }
RECIS_INLINE double Sqrt(double x) { return __builtin_sqrt(x); }

RECIS_INLINE float Max(float a, float b) { return a > b ? a : b; }
RECIS_INLINE double Max(double a, double b) { return a > b ? a : b; }

template <class S>
RECIS_INLINE S Load(const S* from, int) {
  return *from;
}
template <class S>
RECIS_INLINE S Load(const Half* from, int) {
  return ToFloat(*from);
}
template <class S>
RECIS_INLINE S Load(const BFloat16* from, int) {
  return ToFloat(*from);
}
template <class S>
RECIS_INLINE void Store(S value, S* to, int) {
  *to = value;
}
template <class S>
RECIS_INLINE void Store(S value, Half* to, int) {
  *to = ToHalf(value);
}
template <class S>
RECIS_INLINE void Store(S value, BFloat16* to, int) {
  *to = ToBFloat16(value);
}

}  // namespace
}  // namespace recis
