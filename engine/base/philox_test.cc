#include "base/philox.h"

#include <array>
#include <cstdint>

#include "base/testing.h"

namespace recis {
namespace {

using Words = std::array<uint32_t, 4>;

// One draw at counter (first, stream, id low, id high) with key (seed low, seed high).
Words Philox(const Words& counter, uint32_t key0, uint32_t key1) {
  uint32_t out[4][1];
  PhiloxLanes<1>(uint64_t{key1} << 32 | key0,
                 static_cast<int64_t>(uint64_t{counter[3]} << 32 | counter[2]), counter[1],
                 counter[0], out);
  return {out[0][0], out[1][0], out[2][0], out[3][0]};
}

// Source: kat_vectors of Random123 1.14, philox4x32 10.
TEST(DrawsAreThoseOfRandom123) {
  EXPECT_EQ(Philox({0, 0, 0, 0}, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox({kOnes, kOnes, kOnes, kOnes}, kOnes, kOnes),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(ALaneIsADrawOfItsOwnAtTheNextCounter) {
  constexpr uint32_t kFirst = 0xfffffffe;  // the counter wraps and touches no other word
  uint32_t lanes[4][32];
  PhiloxLanes<32>(0x0123456789abcdef, -2, 5, kFirst, lanes);
  for (uint32_t i = 0; i < 32; ++i) {
    const Words lane{lanes[0][i], lanes[1][i], lanes[2][i], lanes[3][i]};
    EXPECT_EQ(lane, Philox({kFirst + i, 5, 0xfffffffe, 0xffffffff}, 0x89abcdef, 0x01234567), i);
  }
}

}  // namespace
}  // namespace recis
