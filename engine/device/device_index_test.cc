// The index and the rows of a table on a device, on all host executors.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "base/hash.h"
#include "base/testing.h"
#include "base/thread_pool.h"
#include "device/device_kernels_testing.h"

namespace recis {
namespace {

using testing::AllKernels, testing::NamedKernels, testing::PlainTable;
using Ids = std::vector<int64_t>;
using Rows = std::vector<Row>;

Ids RandomIds(int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  Ids ids(n);
  for (int64_t& id : ids) id = static_cast<int64_t>(random());
  return ids;
}

// The rows that n new ids get in a table that has `end` and no freed ones.
Rows NewRows(Row end, Row n) {
  Rows rows(n);
  for (Row i = 0; i < n; ++i) rows[i] = end + n - 1 - i;
  return rows;
}

TEST(NewIdsGetRowsFromTheLastToTheFirst) {
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(4, 64, 16);
    const Ids ids = {5, -1, 0, INT64_MIN, INT64_MAX};
    EXPECT_EQ(table.Find(*on.kernels, ids), Rows(5, kNoRow), on.name);
    EXPECT_EQ(table.Admit(*on.kernels, ids), (Rows{4, 3, 2, 1, 0}), on.name);
    EXPECT_EQ(table.Admit(*on.kernels, {7, 0, 8}), (Rows{6, 2, 5}), on.name);
    EXPECT_EQ(table.Find(*on.kernels, {8, 9, 5}), (Rows{5, kNoRow, 4}), on.name);
    EXPECT_EQ(table.counts.end, 7u);
    EXPECT_EQ(table.counts.admits, 7u);
    EXPECT_EQ(table.entries[2].id, 0);
  }
}

TEST(FreedRowsComeBackFirstTheLastFreedFirst) {
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(4, 64, 16);
    table.Admit(*on.kernels, {10, 11, 12, 13, 14});  // rows 4 to 0
    table.Evict(*on.kernels, {13, 99, 11});          // rows 1, 3
    EXPECT_EQ(table.Find(*on.kernels, {10, 11, 12, 13, 14}), (Rows{4, kNoRow, 2, kNoRow, 0}),
              on.name);
    EXPECT_EQ(table.counts.freed, 2u);
    EXPECT_EQ(table.Admit(*on.kernels, {20, 21, 22}), (Rows{5, 1, 3}), on.name);
    EXPECT_EQ(table.counts.freed, 0u);
    EXPECT_EQ(table.counts.end, 6u);
    EXPECT_EQ(table.Find(*on.kernels, {11, 20, 21, 22}), (Rows{kNoRow, 5, 1, 3}), on.name);
  }
}

TEST(AFreedRowHasARecordOfZeros) {
  constexpr size_t kBytes = 48;
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(4, 64, kBytes);
    std::fill(table.new_record.begin(), table.new_record.end(), std::byte{1});
    table.Admit(*on.kernels, {10, 11, 12});
    table.Evict(*on.kernels, {11});  // row 1
    for (size_t i = 0; i < 3 * kBytes; ++i) {
      EXPECT_EQ(table.records[i], std::byte{i / kBytes != 1}, on.name, i);
    }
  }
}

// The narrow races: many tiles want the same few places.
TEST(AnIndexAtItsLoadHoldsEveryId) {
  SetThreadCount(4);
  for (const NamedKernels& on : AllKernels()) {
    for (const uint32_t buckets : {1u, 3u, 20u}) {
      const auto load = static_cast<Row>(buckets * IndexBucket::kPlaces * 0.85);
      for (uint64_t seed = 0; seed < 10; ++seed) {
        PlainTable table(buckets, load, 16);
        const Ids ids = RandomIds(load, seed);
        EXPECT_EQ(table.Admit(*on.kernels, ids), NewRows(0, load), on.name);
        EXPECT_EQ(table.Find(*on.kernels, ids), NewRows(0, load), on.name);
        EXPECT_EQ(table.Find(*on.kernels, RandomIds(50, seed + 1000)), Rows(50, kNoRow), on.name);
      }
    }
  }
}

// Ids whose digests are equal and whose home is the same bucket.
TEST(EqualDigestsAreToldApartByTheirIds) {
  Ids ids;
  const uint64_t top = MixId(0) >> 52;
  for (int64_t id = 0; ids.size() < 20; ++id) {
    if (MixId(id) >> 52 == top) ids.push_back(id);
  }
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(2, 64, 16);
    table.Admit(*on.kernels, ids);
    EXPECT_EQ(table.Find(*on.kernels, ids), NewRows(0, 20), on.name);
  }
}

// Digests that would read as an empty place or a marked one.
TEST(EveryHashHasADigest) {
  Ids ids;
  for (int64_t id = 0; ids.size() < 10; ++id) {
    if (MixId(id) >> 48 <= IndexBucket::kMarked) ids.push_back(id);
  }
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(2, 64, 16);
    table.Admit(*on.kernels, ids);
    EXPECT_EQ(table.Find(*on.kernels, ids), NewRows(0, 10), on.name);
  }
}

TEST(WhatIsAddedToOneRowIsSummedAndTheLastOfRepeatsWins) {
  SetThreadCount(4);
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(2, 64, 32);
    table.Admit(*on.kernels, {1, 2});
    for (int round = 0; round < 20; ++round) {
      std::fill(table.records.begin(), table.records.end(), std::byte{0});
      const Rows rows(100, 1);
      const Ids values(300, 1);
      EXPECT(on.kernels->AddTo(table.view, rows.data(), 100, 8, 3, values.data(), nullptr).ok());
      const auto* sums = reinterpret_cast<const int64_t*>(table.records.data() + 32);
      EXPECT_EQ(Ids(sums, sums + 4), (Ids{0, 100, 100, 100}), on.name);
      std::vector<uint32_t> inverse(100), last(2);
      for (uint32_t i = 0; i < 100; ++i) inverse[i] = i % 2;
      EXPECT(on.kernels->Last(inverse.data(), 100, last.data(), nullptr).ok());
      EXPECT_EQ(last, (std::vector<uint32_t>{98, 99}), on.name);
    }
  }
}

TEST(TheFirstOfTheRowsThatAreNotInUseIsNamed) {
  SetThreadCount(4);
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(2, 64, 16);
    table.Admit(*on.kernels, {1, 2, 3});
    table.Evict(*on.kernels, {2});
    const Ids rows = {0, 2, 1, -1, 0, 3, 1, int64_t{1} << 32};
    std::vector<Row> narrow(rows.size());
    uint32_t bad = NumberingArgs::kNoPosition;
    EXPECT(on.kernels->CheckRows(table.view, rows.data(), 2, narrow.data(), &bad, nullptr).ok());
    EXPECT_EQ(bad, NumberingArgs::kNoPosition, on.name);
    EXPECT(on.kernels->CheckRows(table.view, rows.data(), 8, narrow.data(), &bad, nullptr).ok());
    EXPECT_EQ(bad, 2u, on.name);
  }
}

TEST(ARebuildDropsMarksAndKeepsRows) {
  for (const NamedKernels& on : AllKernels()) {
    PlainTable table(3, 64, 16);
    const Ids ids = RandomIds(40, 3);
    table.Admit(*on.kernels, ids);
    table.Evict(*on.kernels, Ids(ids.begin(), ids.begin() + 30));
    EXPECT_EQ(table.counts.used_places, 40u);
    const Rows before = table.Find(*on.kernels, ids);
    std::fill(table.buckets.begin(), table.buckets.end(), IndexBucket{});
    EXPECT(on.kernels->Rebuild(table.view, 40, nullptr).ok());
    EXPECT_EQ(table.Find(*on.kernels, ids), before, on.name);
    EXPECT_EQ(table.counts.used_places, 10u);
    table.Admit(*on.kernels, RandomIds(30, 4));
    EXPECT_EQ(table.counts.end, 40u);
  }
}

}  // namespace
}  // namespace recis
