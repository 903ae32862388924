#include "device/normal.h"

#include <cmath>
#include <cstdint>
#include <random>

#include "base/testing.h"
#include "device/kernels.h"

namespace recis {
namespace {

constexpr double kErrorMax = 0x1p-50;  // relative, as the header promises

TEST(NaturalLogIsThatOfLibm) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100000; ++i) {
    const double x = std::ldexp(1 + static_cast<double>(random() >> 12) * 0x1p-52,
                                static_cast<int>(random() % 2045) - 1022);
    const long double exact = std::log(static_cast<long double>(x));
    EXPECT_LE(std::fabs(NaturalLog(x) - exact), kErrorMax * std::fabs(exact), x);
  }
  EXPECT_EQ(NaturalLog(1), 0.0);
}

TEST(QuantilesAreRightToFifteenDigits) {
  struct {
    double probability;
    double z;
  } const known[] = {
      {0x1.0000000000001p-1, 2.7829164246717669222e-16},
      {0x1.0000218def417p-1, 2.5066282747057051991e-6},
      {0x1.0400000000000p-1, 0.019584285230126919529},
      {0x1.199999999999ap-1, 0.12566134685507414641},
      {0x1.8000000000000p-1, 0.6744897501960817432},
      {0x1.ccccccccccccdp-1, 1.2815515655446005935},
      {0x1.d99999999999ap-1, 1.4395314709384562291},  // either side of the first seam
      {0x1.d99999999999bp-1, 1.4395314709384570134},
      {0x1.f333333333333p-1, 1.9599639845400538556},
      {0x1.ff7ced916872bp-1, 3.0902323061678132778},
      {0x1.ffffde7210be9p-1, 4.7534243088170877657},
      {0x1.fffffffffe000p-1, 7.0477002566644087254},
      {0x1.fffffffffffffp-1, 8.2095361516013868556},
      {0x1.e8a37a45fc321p-37, -6.6579046435011038061},  // either side of the second
      {0x1.e58b5986f33c4p-37, -6.6588385028507655283},
      {0x1.79ca10c924223p-67, -9.2623400897984075796},
      {0x1.56e1fc2f8f359p-997, -37.047096299361199237},
      {0x1.0000000000000p-1022, -37.519379347144499821},
  };
  for (const auto& [probability, z] : known) {
    EXPECT_LE(std::fabs(Quantile(probability) - z), kErrorMax * std::fabs(z), probability);
  }
  EXPECT_EQ(Quantile(0.5), 0.0);
}

TEST(QuantilesInvertTheDistribution) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100000; ++i) {
    const double p = std::ldexp(1 + static_cast<double>(random() >> 12) * 0x1p-52,
                                -2 - static_cast<int>(random() % 1020));
    const long double z = Quantile(p);
    const long double back = std::erfc(-z / std::sqrt(2.0L)) / 2;
    // The distribution grows an error in z by the factor z^2.
    EXPECT_LE(std::fabs(back - p), 2 * kErrorMax * (1 + z * z) * p, p);
  }
}

TEST(QuantilesAreSymmetricToTheBit) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 100000; ++i) {
    const double p = static_cast<double>((random() >> 12) | 1) * 0x1p-53;  // 1 - p is exact
    EXPECT_EQ(Quantile(1 - p), -Quantile(p), p);
  }
}

TEST(QuantilesAscend) {
  double before = Quantile(0x1p-1022);
  for (double p = 0x1p-1022; p < 0.5; p *= 1.001) {
    EXPECT_LT(before, Quantile(p * 1.001), p);
    before = Quantile(p * 1.001);
  }
  for (int i = 1; i < 1000000; ++i)
    EXPECT_LT(Quantile((i - 1 + 0.5) * 1e-6), Quantile((i + 0.5) * 1e-6), i);
}

TEST(NormalProbabilityInvertsTheQuantile) {
  EXPECT_EQ(NormalProbability(0), 0.5);
  for (double z = -37; z < 8; z += 0.0371) {
    const long double exact = std::erfc(-static_cast<long double>(z) / std::sqrt(2.0L)) / 2;
    const double p = NormalProbability(z);
    EXPECT_LE(std::fabs(p - exact), 2 * kErrorMax * (1 + z * z) * exact, z);
    // The largest probability whose quantile does not pass z.
    EXPECT_LE(NormalQuantile(p), z);
    EXPECT_LT(z, NormalQuantile(std::nextafter(p, 1.0)));
  }
}

TEST(NormalProbabilityStaysWithinTheQuantilesRange) {
  for (const double z : {-1e300, -40.0, -37.6}) EXPECT_EQ(NormalProbability(z), 0x1p-1022);
  for (const double z : {8.3, 40.0, 1e300}) EXPECT_EQ(NormalProbability(z), 1 - 0x1p-53);
}

}  // namespace
}  // namespace recis
