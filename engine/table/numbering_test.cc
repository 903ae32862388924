#include "table/numbering.h"

#include <cstdint>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/hash_testing.h"
#include "base/testing.h"

namespace recis {
namespace {

std::vector<int64_t> Ids(const Numbering& numbers) {
  return {numbers.ids(), numbers.ids() + numbers.size()};
}

TEST(IdsAreNumberedAsTheyAreFirstSeen) {
  Numbering numbers;
  const std::vector<int64_t> ids = {7, INT64_MIN, 0, 7, -1, INT64_MAX, 0, 7};
  std::vector<uint32_t> found;
  for (const int64_t id : ids) found.push_back(numbers.Number(id));
  EXPECT_EQ(found, (std::vector<uint32_t>{0, 1, 2, 0, 3, 4, 2, 0}));
  EXPECT_EQ(Ids(numbers), (std::vector<int64_t>{7, INT64_MIN, 0, -1, INT64_MAX}));
}

TEST(FindAddsNothing) {
  Numbering numbers;
  EXPECT_EQ(numbers.Find(0), Numbering::kUnseen);
  EXPECT_EQ(numbers.size(), 0);
  numbers.Number(5);
  EXPECT_EQ(numbers.Find(5), 0u);
  EXPECT_EQ(numbers.Find(6), Numbering::kUnseen);
  EXPECT_EQ(numbers.size(), 1);
}

TEST(ANumberingIsAMapHoweverItGrows) {
  for (const int64_t expected : {0, 16, 17, 5000}) {
    std::mt19937_64 random(static_cast<uint64_t>(expected));
    Numbering numbers(expected);
    std::unordered_map<int64_t, uint32_t> model;
    std::vector<int64_t> order;
    for (int i = 0; i < 20000; ++i) {
      const auto id = static_cast<int64_t>(random() % 7000) * 65536 - 3000;
      EXPECT_EQ(numbers.Find(id), model.contains(id) ? model[id] : Numbering::kUnseen);
      const auto [place, is_new] = model.emplace(id, model.size());
      if (is_new) order.push_back(id);
      EXPECT_EQ(numbers.Number(id), place->second);
    }
    EXPECT(Ids(numbers) == order, expected);
  }
}

TEST(IdsOfOnePlaceAndOneTagAreToldApart) {
  Numbering numbers(1000);
  std::vector<int64_t> ids;
  for (uint64_t i = 0; i < 1000; ++i) ids.push_back(testing::UnmixId(i << 20 | 0xabcd));
  for (const int64_t id : ids) numbers.Number(id);
  EXPECT(Ids(numbers) == ids);
  for (uint32_t i = 0; i < 1000; ++i) EXPECT_EQ(numbers.Find(ids[i]), i);
}

TEST(TheIdsCanBeTakenAndTheRestStartsAnew) {
  Numbering numbers;
  for (int64_t id = 0; id < 100; ++id) numbers.Number(id * id);
  const Buffer taken = numbers.TakeIds();
  for (int64_t id = 0; id < 100; ++id) EXPECT_EQ(taken.as<int64_t>()[id], id * id);
  EXPECT_EQ(numbers.size(), 0);
  EXPECT_EQ(numbers.Find(4), Numbering::kUnseen);
  EXPECT_EQ(numbers.Number(4), 0u);
  EXPECT_EQ(numbers.Number(9), 1u);
  EXPECT_EQ(Ids(numbers), (std::vector<int64_t>{4, 9}));
}

TEST(AMovedNumberingKeepsItsNumbers) {
  Numbering first;
  first.Number(8);
  Numbering second = std::exchange(first, Numbering());
  EXPECT_EQ(second.Find(8), 0u);
  EXPECT_EQ(first.Find(8), Numbering::kUnseen);
}

}  // namespace
}  // namespace recis
