#include "table/batch.h"

#include <cstdint>
#include <random>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

// The positions of each distinct id, as Occurrences tells them.
std::vector<std::vector<uint32_t>> Positions(const std::vector<uint32_t>& inverse,
                                             int64_t distinct) {
  const Occurrences occurrences(inverse.data(), static_cast<int64_t>(inverse.size()), distinct);
  std::vector<std::vector<uint32_t>> positions;
  for (int64_t i = 0; i < distinct; ++i) {
    const uint32_t* first = occurrences.order() + occurrences.starts()[i];
    positions.emplace_back(first, first + occurrences.Count(i));
  }
  return positions;
}

TEST(OccurrencesListThePositionsOfEachIdAscending) {
  EXPECT_EQ(Positions({0, 1, 0, 2, 1, 0}, 3),
            (std::vector<std::vector<uint32_t>>{{0, 2, 5}, {1, 4}, {3}}));
  EXPECT_EQ(Positions({}, 0).size(), 0u);
  EXPECT_EQ(Positions({0}, 1), (std::vector<std::vector<uint32_t>>{{0}}));
}

TEST(OccurrencesOfALargeBatchAreThoseOfAPlainLoop) {
  std::mt19937_64 random(1);
  std::vector<uint32_t> inverse(100000);
  std::vector<std::vector<uint32_t>> expected(3000);
  for (uint32_t i = 0; i < inverse.size(); ++i) {
    inverse[i] = static_cast<uint32_t>(random() % expected.size());
    expected[inverse[i]].push_back(i);
  }
  EXPECT(Positions(inverse, 3000) == expected);
}

}  // namespace
}  // namespace recis
