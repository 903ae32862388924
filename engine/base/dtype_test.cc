#include "base/dtype.h"

#include <bit>
#include <cmath>
#include <limits>

#include "base/testing.h"

namespace recis {
namespace {

// The value of a 16-bit float by its definition: sign, exponent and mantissa bits.
double Defined(uint16_t bits, int mantissa_bits) {
  const int exponent_bits = 15 - mantissa_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int exponent = (bits & 0x7fff) >> mantissa_bits;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return sign * (mantissa == 0 ? std::numeric_limits<double>::infinity() : NAN);
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

TEST(EveryHalfReadsAsItsDefinition) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = ToFloat(Half{static_cast<uint16_t>(bits)});
    const double defined = Defined(static_cast<uint16_t>(bits), 10);
    EXPECT_EQ(std::signbit(value), bits >> 15 == 1, bits);
    EXPECT(std::isnan(defined) ? std::isnan(value) : value == defined, bits);
  }
}

TEST(EveryBFloat16ReadsAsItsDefinition) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = ToFloat(BFloat16{static_cast<uint16_t>(bits)});
    const double defined = Defined(static_cast<uint16_t>(bits), 7);
    EXPECT_EQ(std::signbit(value), bits >> 15 == 1, bits);
    EXPECT(std::isnan(defined) ? std::isnan(value) : value == defined, bits);
  }
}

TEST(EveryNumberOfSixteenBitsComesBackFromFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const BFloat16 brain{static_cast<uint16_t>(bits)};
    if (!std::isnan(ToFloat(half))) EXPECT_EQ(ToHalf(ToFloat(half)).bits, bits);
    if (!std::isnan(ToFloat(brain))) EXPECT_EQ(ToBFloat16(ToFloat(brain)).bits, bits);
  }
}

// Of each pair of neighbours, the value half way goes to the even one and the floats on
// either side of it to the nearer one. Conversion is monotone between these, so this
// holds for every float.
template <class Narrow>
void CheckRounding(Narrow (*narrow)(float), uint16_t infinity_bits, float beyond_largest) {
  for (uint16_t bits = 0; bits < infinity_bits; ++bits) {
    const double low = ToFloat(Narrow{bits});
    const bool last = bits + 1 == infinity_bits;
    const double high = last ? beyond_largest : ToFloat(Narrow{static_cast<uint16_t>(bits + 1)});
    const auto middle = static_cast<float>((low + high) / 2);
    const uint16_t even = bits & 1 ? bits + 1 : bits;
    for (const uint16_t sign : {0x0000, 0x8000}) {
      const float signed_middle = sign == 0 ? middle : -middle;
      const float below = std::nextafter(signed_middle, 0.0f);
      const float above = std::nextafter(signed_middle, 2 * signed_middle);
      EXPECT_EQ(narrow(signed_middle).bits, sign | even, bits);
      EXPECT_EQ(narrow(below).bits, sign | bits, bits);
      EXPECT_EQ(narrow(above).bits, sign | (bits + 1), bits);
    }
  }
}

TEST(HalvesRoundToNearestEven) { CheckRounding<Half>(ToHalf, 0x7c00, 65536.0f); }

TEST(BFloat16sRoundToNearestEven) {
  // One more step than the largest would be 2^128, which no float holds: stop before it.
  CheckRounding<BFloat16>(ToBFloat16, 0x7f7f, ToFloat(BFloat16{0x7f7f}));
  EXPECT_EQ(ToBFloat16(0x1.fep127f).bits, 0x7f7f);
  EXPECT_EQ(ToBFloat16(0x1.fefffep127f).bits, 0x7f7f);
  EXPECT_EQ(ToBFloat16(0x1.ffp127f).bits, 0x7f80);
}

TEST(InfinitiesAndOverflowAreInfinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float value : {kInfinity, 0x1p16f, 0x1p127f, 65520.0f}) {
    EXPECT_EQ(ToHalf(value).bits, 0x7c00, value);
    EXPECT_EQ(ToHalf(-value).bits, 0xfc00, value);
  }
  EXPECT_EQ(ToBFloat16(kInfinity).bits, 0x7f80);
  EXPECT_EQ(ToBFloat16(-std::numeric_limits<float>::max()).bits, 0xff80);
}

TEST(EveryNaNBecomesAQuietOneOfItsSign) {
  for (const uint32_t mantissa :
       {0x000001u, 0x001fffu, 0x002000u, 0x3fffffu, 0x400000u, 0x7fffffu}) {
    for (const uint32_t sign : {0u, 1u}) {
      const float nan = std::bit_cast<float>(sign << 31 | 0x7f800000u | mantissa);
      EXPECT_EQ(ToHalf(nan).bits & 0xfe00u, sign << 15 | 0x7e00u, mantissa);
      EXPECT_EQ(ToBFloat16(nan).bits & 0xffc0u, sign << 15 | 0x7fc0u, mantissa);
    }
  }
  EXPECT_EQ(std::bit_cast<uint32_t>(ToFloat(Half{0x7c01})) & 0x7fc00000u, 0x7fc00000u);
}

TEST(SizesAndAccumulatorsFitTheTypes) {
  const size_t sizes[kDTypeCount] = {4, 8, 2, 2, 1, 4, 8};
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(SizeOf(dtype), sizes[i]);
    EXPECT_EQ(IsFloating(dtype), i < 4);
    EXPECT(AccumulatorOf(dtype) == (i == 1 ? DType::kFloat64 : DType::kFloat32), i);
  }
}

}  // namespace
}  // namespace recis
