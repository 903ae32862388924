// Vectors of 64 bytes, whatever the registers hold: the compiler splits them. The last,
// partial vector of a row is padded with zeros. See kernels_impl.h for who may include this.
// With RECIS_ONE_LANE defined, vectors of one element.
#pragma once

#include "base/dtype.h"

#define RECIS_INLINE RECIS_HOST_DEVICE static inline __attribute__((always_inline))

#if defined(RECIS_ONE_LANE)
#include "device/one_lane_impl.h"
#else

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace recis {
namespace {

typedef float FloatVector __attribute__((vector_size(64)));
typedef double DoubleVector __attribute__((vector_size(64)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = FloatVector;
};
template <>
struct VectorOf<double> {
  using Type = DoubleVector;
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
constexpr int kLanes = 64 / sizeof(T);

RECIS_INLINE FloatVector Sqrt(FloatVector x) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__SSE2__)
  FloatVector out;
  for (int i = 0; i < 4; ++i) {
    __m128 part;
    __builtin_memcpy(&part, reinterpret_cast<const char*>(&x) + 16 * i, 16);
    part = _mm_sqrt_ps(part);
    __builtin_memcpy(reinterpret_cast<char*>(&out) + 16 * i, &part, 16);
  }
  return out;
#else
  for (int i = 0; i < kLanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

RECIS_INLINE DoubleVector Sqrt(DoubleVector x) {
#if defined(__AVX512F__)
  return (DoubleVector)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#else
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

RECIS_INLINE FloatVector Max(FloatVector a, FloatVector b) { return a > b ? a : b; }
RECIS_INLINE DoubleVector Max(DoubleVector a, DoubleVector b) { return a > b ? a : b; }

// Loads and stores of `count` elements, converted between T as stored and S as computed.
template <class S>
RECIS_INLINE Vector<S> Load(const S* from, int count) {
  Vector<S> out{};
  if (count == kLanes<S>) {
    __builtin_memcpy(&out, from, 64);
  } else {
    __builtin_memcpy(&out, from, sizeof(S) * count);
  }
  return out;
}
template <class S>
RECIS_INLINE void Store(Vector<S> value, S* to, int count) {
  if (count == kLanes<S>) {
    __builtin_memcpy(to, &value, 64);
  } else {
    __builtin_memcpy(to, &value, sizeof(S) * count);
  }
}
template <class S, class T>
RECIS_INLINE Vector<S> LoadNarrow(const T* from, int count) {
  float wide[kLanes<float>] = {};
  if (count == kLanes<float>) {
    for (int i = 0; i < kLanes<float>; ++i) wide[i] = ToFloat(from[i]);
  } else {
    for (int i = 0; i < count; ++i) wide[i] = ToFloat(from[i]);
  }
  Vector<S> out;
  __builtin_memcpy(&out, wide, 64);
  return out;
}
template <class S>
RECIS_INLINE Vector<S> Load(const Half* from, int count) {
  return LoadNarrow<S>(from, count);
}
template <class S>
RECIS_INLINE Vector<S> Load(const BFloat16* from, int count) {
  return LoadNarrow<S>(from, count);
}
RECIS_INLINE void Narrow(float from, Half* to) { *to = ToHalf(from); }
RECIS_INLINE void Narrow(float from, BFloat16* to) { *to = ToBFloat16(from); }
template <class S, class T>
RECIS_INLINE void StoreNarrow(Vector<S> value, T* to, int count) {
  float wide[kLanes<float>];
  __builtin_memcpy(wide, &value, 64);
  if (count == kLanes<float>) {
    for (int i = 0; i < kLanes<float>; ++i) Narrow(wide[i], to + i);
  } else {
    for (int i = 0; i < count; ++i) Narrow(wide[i], to + i);
  }
}
template <class S>
RECIS_INLINE void Store(Vector<S> value, Half* to, int count) {
  StoreNarrow<S>(value, to, count);
}
template <class S>
RECIS_INLINE void Store(Vector<S> value, BFloat16* to, int count) {
  StoreNarrow<S>(value, to, count);
}

}  // namespace
}  // namespace recis

#endif  // RECIS_ONE_LANE
