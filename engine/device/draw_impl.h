// Draws the first values of a row. See kernels_impl.h.
#pragma once

#include "base/philox.h"
#include "device/kernels.h"
#include "device/normal.h"
#include "device/vector_impl.h"

namespace recis {
namespace {

constexpr int kDrawLanes = 2 * kLanes<float>;  // counters at once
constexpr int kDrawBlock = 2 * kDrawLanes;     // elements at once: two words each

// Uniform draws in (0, 1), elements [first, first + kDrawBlock) of the row: odd multiples
// of 2^-53, so neither end and the middle are ever met.
RECIS_INLINE void DrawUniform(uint64_t seed, int64_t id, int64_t first, double (&out)[kDrawBlock]) {
  uint32_t words[4][kDrawLanes];
  PhiloxLanes<kDrawLanes>(seed, id, /*stream=*/0, static_cast<uint32_t>(first / 2), words);
  for (int i = 0; i < kDrawLanes; ++i) {
    for (int half = 0; half < 2; ++half) {
      const uint64_t word =
          (static_cast<uint64_t>(words[2 * half + 1][i]) << 32) | words[2 * half][i];
      const double unit = __builtin_bit_cast(double, (word >> 12) | 0x3ff0000000000000u);
      out[2 * i + half] = (unit - 1.0) + 0x1p-53;
    }
  }
}

RECIS_INLINE void DrawBlock(const DrawArgs& args, int64_t id, int64_t first,
                            double (&out)[kDrawBlock]) {
  const double shift = args.shift, scale = args.scale;
  switch (args.distribution) {
    case Distribution::kConstant:
      for (int i = 0; i < kDrawBlock; ++i) out[i] = shift;
      return;
    case Distribution::kUniform:
      DrawUniform(args.seed, id, first, out);
      for (int i = 0; i < kDrawBlock; ++i) out[i] = shift + scale * out[i];
      return;
    case Distribution::kNormal:
      DrawUniform(args.seed, id, first, out);
      for (int i = 0; i < kDrawBlock; ++i) out[i] = shift + scale * Quantile(out[i]);
      return;
    case Distribution::kTruncatedNormal: {
      DrawUniform(args.seed, id, first, out);
      const double low = args.low, width = args.high - args.low;
      for (int i = 0; i < kDrawBlock; ++i) {
        out[i] = shift + scale * Quantile(low + width * out[i]);
      }
      return;
    }
  }
}

template <class T>
RECIS_INLINE void Put(const double* from, int count, std::byte* to) {
  T* typed = reinterpret_cast<T*>(to);
  for (int i = 0; i < count; ++i) typed[i] = static_cast<T>(from[i]);
}

// Draws elements [first, first + n) of the row whose first element is at `row`.
// REQUIRES: first is a multiple of kDrawBlock and n at most kDrawBlock.
RECIS_INLINE void DrawPart(const DrawArgs& args, int64_t id, DType dtype, int64_t first, int n,
                           std::byte* row) {
  double block[kDrawBlock];
  DrawBlock(args, id, first, block);
  std::byte* to = row + first * SizeOf(dtype);
  switch (dtype) {
    case DType::kFloat32:
      return Put<float>(block, n, to);
    case DType::kFloat64:
      return Put<double>(block, n, to);
    case DType::kFloat16:
      for (int i = 0; i < n; ++i) {
        reinterpret_cast<Half*>(to)[i] = ToHalf(static_cast<float>(block[i]));
      }
      return;
    case DType::kBFloat16:
      for (int i = 0; i < n; ++i) {
        reinterpret_cast<BFloat16*>(to)[i] = ToBFloat16(static_cast<float>(block[i]));
      }
      return;
    case DType::kInt8:
      return Put<int8_t>(block, n, to);
    case DType::kInt32:
      return Put<int32_t>(block, n, to);
    case DType::kInt64:
      return Put<int64_t>(block, n, to);
  }
}

[[maybe_unused]] void Draw(const DrawArgs& args, int64_t id, DType dtype, int64_t count,
                           std::byte* out) {
  for (int64_t first = 0; first < count; first += kDrawBlock) {
    const int n = static_cast<int>(count - first < kDrawBlock ? count - first : kDrawBlock);
    DrawPart(args, id, dtype, first, n, out);
  }
}

}  // namespace
}  // namespace recis
