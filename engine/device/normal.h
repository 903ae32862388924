// The inverse of the standard normal distribution, without libm.
//
// Relative error below 2^-50. Internal linkage and plain arithmetic, like dtype.h: the
// kernels inline it for each instruction set and all get the same bits.
//
// Source: M. J. Wichura, "Algorithm AS 241: The percentage points of the normal
// distribution", Applied Statistics 37 (1988); the coefficients are its PPND16.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace recis {

// Natural logarithm of a positive normal double, by 2 atanh((m - 1) / (m + 1)).
RECIS_HOST_DEVICE static inline double NaturalLog(double x) {
  constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  const uint64_t bits = __builtin_bit_cast(uint64_t, x);
  // Mantissa in [sqrt(1/2), sqrt(2)): move the cut between octaves there.
  const uint64_t shifted = bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
  const int32_t exponent = static_cast<int32_t>(shifted >> 52) - 1023;
  const double m =
      __builtin_bit_cast(double, (shifted & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
  const double s = (m - 1) / (m + 1);
  const double z = s * s;
  double sum = 1.0 / 23;
  sum = sum * z + 1.0 / 21;
  sum = sum * z + 1.0 / 19;
  sum = sum * z + 1.0 / 17;
  sum = sum * z + 1.0 / 15;
  sum = sum * z + 1.0 / 13;
  sum = sum * z + 1.0 / 11;
  sum = sum * z + 1.0 / 9;
  sum = sum * z + 1.0 / 7;
  sum = sum * z + 1.0 / 5;
  sum = sum * z + 1.0 / 3;
  sum = sum * z + 1.0;
  return exponent * kLn2 + 2 * s * sum;
}

namespace internal {
// p / q at x, coefficients from the highest power down.
RECIS_HOST_DEVICE static inline double Ratio(const double (&p)[8], const double (&q)[8], double x) {
  double top = p[0], bottom = q[0];
  for (int i = 1; i < 8; ++i) {
    top = top * x + p[i];
    bottom = bottom * x + q[i];
  }
  return top / bottom;
}
}  // namespace internal

// REQUIRES: 0 < probability < 1.
RECIS_HOST_DEVICE static inline double Quantile(double probability) {
  constexpr double kCentreTop[8] = {2.5090809287301226727e3, 3.3430575583588128105e4,
                                    6.7265770927008700853e4, 4.5921953931549871457e4,
                                    1.3731693765509461125e4, 1.9715909503065514427e3,
                                    1.3314166789178437745e2, 3.3871328727963666080e0};
  constexpr double kCentreBottom[8] = {5.2264952788528545610e3, 2.8729085735721942674e4,
                                       3.9307895800092710610e4, 2.1213794301586595867e4,
                                       5.3941960214247511077e3, 6.8718700749205790830e2,
                                       4.2313330701600911252e1, 1.0};
  constexpr double kNearTop[8] = {7.74545014278341407640e-4, 2.27238449892691845833e-2,
                                  2.41780725177450611770e-1, 1.27045825245236838258e0,
                                  3.64784832476320460504e0,  5.76949722146069140550e0,
                                  4.63033784615654529590e0,  1.42343711074968357734e0};
  constexpr double kNearBottom[8] = {1.05075007164441684324e-9, 5.47593808499534494600e-4,
                                     1.51986665636164571966e-2, 1.48103976427480074590e-1,
                                     6.89767334985100004550e-1, 1.67638483018380384940e0,
                                     2.05319162663775882187e0,  1.0};
  constexpr double kFarTop[8] = {2.01033439929228813265e-7, 2.71155556874348757815e-5,
                                 1.24266094738807843860e-3, 2.65321895265761230930e-2,
                                 2.96560571828504891230e-1, 1.78482653991729133580e0,
                                 5.46378491116411436990e0,  6.65790464350110377720e0};
  constexpr double kFarBottom[8] = {2.04426310338993978564e-15, 1.42151175831644588870e-7,
                                    1.84631831751005468180e-5,  7.86869131145613259100e-4,
                                    1.48753612908506148525e-2,  1.36929880922735805310e-1,
                                    5.99832206555887937690e-1,  1.0};
  const double q = probability - 0.5;
  const double centre = q * internal::Ratio(kCentreTop, kCentreBottom, 0.180625 - q * q);
  const double tail = q < 0 ? probability : 1 - probability;
  const double r = __builtin_sqrt(-NaturalLog(tail));
  const double near = internal::Ratio(kNearTop, kNearBottom, r - 1.6);
  const double far = internal::Ratio(kFarTop, kFarBottom, r - 5.0);
  const double outer = r <= 5.0 ? near : far;
  const double magnitude = q < 0 ? -outer : outer;
  const bool central = (q < 0 ? -q : q) <= 0.425;
  return central ? centre : magnitude;
}

}  // namespace recis
