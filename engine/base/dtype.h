// Element types of slots, and conversions to and from the 16-bit floats.
//
// Everything here has internal linkage and calls no library function: the kernels are
// compiled once for each instruction set, and the linker must never pick one's copy for
// another.
//
// The conversions round to nearest even, keep signed zeros and infinities, and turn
// every NaN into a quiet one. They are plain integer arithmetic, so every instruction
// set gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/host_device.h"

namespace recis {

// Numbered for bind/ and for bytes on disk: never renumber.
enum class DType : uint8_t {
  kFloat32 = 0,
  kFloat64 = 1,
  kFloat16 = 2,
  kBFloat16 = 3,
  kInt8 = 4,
  kInt32 = 5,
  kInt64 = 6,
};
inline constexpr int kDTypeCount = 7;

RECIS_HOST_DEVICE constexpr size_t SizeOf(DType dtype) {
  constexpr size_t kSizes[kDTypeCount] = {4, 8, 2, 2, 1, 4, 8};
  return kSizes[static_cast<int>(dtype)];
}

RECIS_HOST_DEVICE constexpr bool IsFloating(DType dtype) { return dtype <= DType::kBFloat16; }

// The type gradients and optimizer state of a table are kept in: 16-bit floats would
// lose small updates, so they are held in float32.
RECIS_HOST_DEVICE constexpr DType AccumulatorOf(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

RECIS_HOST_DEVICE static inline float ToFloat(Half half) {
  const uint32_t magnitude = half.bits & 0x7fffu;
  const uint32_t sign = (half.bits & 0x8000u) << 16;
  // Subnormal halves are exact multiples of 2^-24.
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  const uint32_t rebias = magnitude >= 0x7c00u ? 224u << 23 : 112u << 23;
  const uint32_t quiet = magnitude > 0x7c00u ? 1u << 22 : 0u;
  const uint32_t normal = ((magnitude << 13) + rebias) | quiet;
  const uint32_t bits = magnitude < 0x0400u ? __builtin_bit_cast(uint32_t, subnormal) : normal;
  return __builtin_bit_cast(float, bits | sign);
}

RECIS_HOST_DEVICE static inline Half ToHalf(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t sign = bits & 0x80000000u;
  const uint32_t magnitude = bits ^ sign;
  // Adding 0.5 aligns the last kept bit of a subnormal half with float's last bit, so
  // the addition itself rounds to nearest even.
  const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, shifted) - 0x3f000000u;
  const uint32_t odd = (magnitude >> 13) & 1u;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + odd) >> 13;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t half = magnitude >= 0x47800000u ? special : finite;
  return Half{static_cast<uint16_t>(half | (sign >> 16))};
}

RECIS_HOST_DEVICE static inline float ToFloat(BFloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}

RECIS_HOST_DEVICE static inline BFloat16 ToBFloat16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return BFloat16{static_cast<uint16_t>(nan ? ((bits >> 16) | 0x40u) : rounded)};
}

}  // namespace recis
