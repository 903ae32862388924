#include "table/index.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <unordered_map>
#include <vector>

#include "base/hash_testing.h"
#include "base/testing.h"
#include "base/thread_pool.h"

namespace recis {
namespace {

using testing::UnmixId;

// The `number`-th id of those of partition 0 whose home is at `place` (of 2^32) of it.
int64_t IdAt(uint32_t place, uint32_t number) { return UnmixId(uint64_t{number} << 32 | place); }

std::vector<Row> Find(const Index& index, const std::vector<int64_t>& ids) {
  std::vector<Row> rows(ids.size());
  index.Find(ids.data(), static_cast<int64_t>(ids.size()), rows.data());
  return rows;
}

void Insert(Index& index, const std::vector<int64_t>& ids, const std::vector<Row>& rows) {
  const auto n = static_cast<int64_t>(ids.size());
  EXPECT(index.Reserve(ids.data(), n).ok());
  index.Insert(ids.data(), rows.data(), n);
}

void Erase(Index& index, const std::vector<int64_t>& ids) {
  index.Erase(ids.data(), static_cast<int64_t>(ids.size()));
}

// Inserts ids[i] at row i.
void InsertAll(Index& index, const std::vector<int64_t>& ids) {
  std::vector<Row> rows(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) rows[i] = static_cast<Row>(i);
  Insert(index, ids, rows);
}

std::vector<int64_t> Distinct(int64_t n, uint64_t seed) {
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    ids[i] = UnmixId((seed << 40 | static_cast<uint64_t>(i)) * 0x9e3779b97f4a7c15u);
  }
  return ids;
}

TEST(AnEmptyIndexFindsNothing) {
  const Index index;
  EXPECT_EQ(Find(index, {0, -1, 42, INT64_MIN, INT64_MAX}), std::vector<Row>(5, kNoRow));
  EXPECT_EQ(index.size(), 0);
}

TEST(EveryInt64MayBeAnId) {
  const std::vector<int64_t> ids = {0, -1, 1, INT64_MIN, INT64_MAX};
  Index index;
  for (size_t known = 0; known <= ids.size(); ++known) {
    std::vector<Row> expected(ids.size(), kNoRow);
    for (size_t i = 0; i < known; ++i) expected[i] = static_cast<Row>(10 + i);
    EXPECT_EQ(Find(index, ids), expected);
    if (known < ids.size()) Insert(index, {ids[known]}, {static_cast<Row>(10 + known)});
  }
  for (const int64_t id : ids) {
    Erase(index, {id});
    EXPECT_EQ(Find(index, {id})[0], kNoRow, id);
  }
  EXPECT_EQ(index.size(), 0);
}

// Random batches of inserts and erases; all ids ever used are looked up after each.
void CheckAgainstAMap(int64_t universe, int rounds, double insert_share, uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::vector<int64_t> ids = Distinct(universe, seed);
  std::unordered_map<int64_t, Row> model;
  Index index;
  for (int round = 0; round < rounds; ++round) {
    const bool inserts = std::uniform_real_distribution<>()(random) < insert_share;
    std::vector<int64_t> chosen;
    std::vector<Row> rows;
    for (const int64_t id : ids) {
      if (random() % 4 != 0 || model.contains(id) == inserts) continue;
      chosen.push_back(id);
      rows.push_back(static_cast<Row>(random()));
    }
    if (inserts) {
      Insert(index, chosen, rows);
      for (size_t i = 0; i < chosen.size(); ++i) model[chosen[i]] = rows[i];
    } else {
      Erase(index, chosen);
      for (const int64_t id : chosen) model.erase(id);
    }
    std::vector<Row> expected;
    for (const int64_t id : ids) {
      expected.push_back(model.contains(id) ? model.at(id) : kNoRow);
    }
    EXPECT(Find(index, ids) == expected, universe, round);
    EXPECT_EQ(index.size(), static_cast<int64_t>(model.size()));
  }
}

TEST(AnIndexIsAMapWhateverItsSize) {
  for (const int64_t universe : {1, 40, 700, 1500, 4000, 20000}) {
    CheckAgainstAMap(universe, 60, 0.5, static_cast<uint64_t>(universe));
  }
}

TEST(AnIndexIsAMapForAnyThreadCount) {
  for (const int threads : {2, 4}) {
    SetThreadCount(threads);
    CheckAgainstAMap(30000, 12, 0.6, static_cast<uint64_t>(threads));
  }
}

TEST(ALongChurnAtConstantSizeStaysAMap) {
  const std::vector<int64_t> ids = Distinct(4000, 9);
  Index index;
  std::vector<int64_t> window(ids.begin(), ids.begin() + 1000);
  InsertAll(index, window);
  std::mt19937_64 random(9);
  for (int64_t next = 1000; next < 200000; ++next) {
    int64_t& leaving = window[random() % window.size()];
    Erase(index, {leaving});
    leaving = UnmixId(static_cast<uint64_t>(next) * 0xd1342543de82ef95u);
    Insert(index, {leaving}, {static_cast<Row>(next)});
    EXPECT_EQ(Find(index, {leaving, -next})[0], static_cast<Row>(next));
  }
  EXPECT_EQ(index.size(), 1000);
}

TEST(AProbeEndsWhereEveryBucketOnceOverflowed) {
  constexpr uint32_t kFirst = 0, kSecond = 0x80000000;  // the homes of two buckets
  Index index;
  std::vector<int64_t> first, second;
  for (uint32_t i = 0; i < 6; ++i) first.push_back(IdAt(kFirst, i));
  for (uint32_t i = 0; i < 5; ++i) second.push_back(IdAt(kSecond, i));
  InsertAll(index, first);  // the sixth goes on to the second bucket
  Erase(index, {first.begin(), first.end() - 1});
  InsertAll(index, second);  // now the fifth of these goes around to the first
  EXPECT_EQ(Find(index, {first[5], second[4], first[0], IdAt(kFirst, 99), IdAt(kSecond, 99)}),
            (std::vector<Row>{5, 4, kNoRow, kNoRow, kNoRow}));
}

TEST(IdsOfOneHomeOverflowPastTheCountersEnd) {
  std::vector<int64_t> ids;
  for (uint32_t i = 0; i < 2000; ++i) ids.push_back(IdAt(0x40000000, i));
  Index index;
  InsertAll(index, ids);
  std::vector<Row> rows(ids.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<Row>(i);
  EXPECT(Find(index, ids) == rows);
  // Emptied, the counters have stuck, and probes must still end and find.
  Erase(index, {ids.begin(), ids.end() - 1});
  EXPECT_EQ(Find(index, {ids[0], ids[1998], ids[1999]}), (std::vector<Row>{kNoRow, kNoRow, 1999}));
  Insert(index, {ids[7]}, {77});
  EXPECT_EQ(Find(index, {ids[7], ids[1999]}), (std::vector<Row>{77, 1999}));
}

TEST(ADeletedIdLeavesNoTrace) {
  Index index;
  const std::vector<int64_t> ids = Distinct(500, 3);
  InsertAll(index, ids);
  Erase(index, {ids[100]});
  EXPECT_EQ(Find(index, {ids[100]})[0], kNoRow);
  Insert(index, {ids[100]}, {7});
  EXPECT_EQ(Find(index, {ids[100]})[0], 7u);
  EXPECT_EQ(index.size(), 500);
}

TEST(ReserveAloneChangesNoAnswer) {
  Index index;
  const std::vector<int64_t> ids = Distinct(3000, 4);
  InsertAll(index, {ids.begin(), ids.begin() + 1000});
  const std::vector<Row> before = Find(index, ids);
  EXPECT(index.Reserve(ids.data() + 1000, 2000).ok());
  EXPECT(Find(index, ids) == before);
  EXPECT_EQ(index.size(), 1000);
}

TEST(ClearEmptiesAndGivesTheMemoryBack) {
  Index index;
  const size_t empty = index.Bytes();
  const std::vector<int64_t> ids = Distinct(100000, 5);
  InsertAll(index, ids);
  index.Clear();
  EXPECT_EQ(index.size(), 0);
  EXPECT_EQ(index.Bytes(), empty);
  EXPECT(Find(index, ids) == std::vector<Row>(ids.size(), kNoRow));
  InsertAll(index, {5, 6});
  EXPECT_EQ(Find(index, {6})[0], 1u);
}

TEST(ARowCostsTwentyBytesWhateverTheSize) {
  Index index;
  std::mt19937_64 random(6);
  while (index.size() < 1000000) {
    std::vector<int64_t> ids(static_cast<size_t>(1000 + index.size() / 40));
    for (int64_t& id : ids) id = static_cast<int64_t>(random());
    InsertAll(index, ids);
    if (index.size() < 100000) continue;
    // Partitions grow one after the other: were it all at once, this would go 15 to 23 in
    // buckets alone. A large page may have just been begun.
    const auto rows = static_cast<double>(index.size());
    const auto bytes = static_cast<double>(index.Bytes());
    EXPECT_LE(17.5, bytes / rows, index.size());
    EXPECT_LE(bytes - kLargePageBytes, 24 * rows, index.size());
  }
}

}  // namespace
}  // namespace recis
