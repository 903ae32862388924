#include "base/hash.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/hash_testing.h"
#include "base/testing.h"

namespace recis {
namespace {

// Rows are placed by it, so a changed value changes every index; known from SplitMix64.
TEST(MixIdIsTheFinalizerOfSplitMix64) {
  EXPECT_EQ(MixId(0), 0xe220a8397b1dcdafu);
  EXPECT_EQ(MixId(static_cast<int64_t>(0x9e3779b97f4a7c15u)), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(MixId(static_cast<int64_t>(2 * 0x9e3779b97f4a7c15u)), 0x06c45d188009454fu);
}

TEST(MixIdIsABijection) {
  for (uint64_t i = 0; i < 100000; ++i) {
    const uint64_t hash = i * 0xd1342543de82ef95u;
    EXPECT_EQ(MixId(testing::UnmixId(hash)), hash);
  }
}

TEST(EvenlySpacedIdsFillEveryPartitionAlike) {
  for (const int64_t stride : {int64_t{1}, int64_t{65536}, int64_t{1} << 40}) {
    std::vector<int> counts(256);
    for (int64_t i = 0; i < 256 * 1000; ++i) ++counts[MixId(i * stride) >> 56];
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    EXPECT_LT(850, *least, stride);
    EXPECT_LT(*most, 1150, stride);
  }
}

TEST(MapToRangeIsMonotoneAndReachesBothEnds) {
  for (const uint32_t n : {1u, 2u, 3u, 1000u, 0xffffffffu}) {
    EXPECT_EQ(MapToRange(0, n), 0u);
    EXPECT_EQ(MapToRange(0xffffffffu, n), n - 1);
    EXPECT_EQ(MapToRange(0xffffffff00000000u, n), 0u);  // the high half plays no part
    uint32_t before = 0;
    for (uint64_t hash = 0; hash < uint64_t{1} << 32; hash += 0x00ffffff) {
      EXPECT_LE(before, MapToRange(hash, n));
      before = MapToRange(hash, n);
    }
  }
}

}  // namespace
}  // namespace recis
