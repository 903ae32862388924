#include "snapshot/merge.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <utility>

#include "base/testing.h"
#include "table/snapshot_source.h"

namespace recis::testing {
namespace {

using Ids = std::vector<int64_t>;
using Rows = std::vector<std::pair<int32_t, int64_t>>;

void Sort(uint32_t slices, Ids* ids) {
  std::sort(ids->begin(), ids->end(), [&](int64_t a, int64_t b) {
    return std::pair(SliceOf(a, slices), a) < std::pair(SliceOf(b, slices), b);
  });
}

Rows Merged(const std::vector<MergeInput>& inputs, uint32_t slices) {
  size_t total = 0;
  for (const MergeInput& input : inputs) total += static_cast<size_t>(input.size);
  std::vector<int32_t> which(total);
  Ids rows(total);
  const int64_t count = Merge(inputs, slices, which.data(), rows.data());
  Rows merged;
  for (int64_t i = 0; i < count; ++i) merged.emplace_back(which[i], rows[i]);
  return merged;
}

MergeInput Input(const Ids& ids, bool deleted = false) {
  return {ids.data(), static_cast<int64_t>(ids.size()), deleted};
}

}  // namespace

TEST(MergeOfNothing) {
  EXPECT(Merged({}, 4).empty());
  const Ids none;
  EXPECT(Merged({Input(none), Input(none, true)}, 4).empty());
}

TEST(MergeLetsTheLastInputDecide) {
  const Ids base = {4, 8, 1, 5};  // slices 0, 0, 1, 1 of 4
  const Ids gone = {8, 1, 9};     // 9 was never there
  const Ids again = {8, 2};
  EXPECT(Merged({Input(base), Input(gone, true), Input(again)}, 4) ==
         (Rows{{0, 0}, {2, 0}, {0, 3}, {2, 1}}));
  EXPECT(Merged({Input(base), Input(base, true)}, 4).empty());
}

TEST(MergeOfRandomInputs) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const auto slices = static_cast<uint32_t>(1 + random() % 9);
    std::vector<Ids> ids(1 + random() % 5);
    std::vector<MergeInput> inputs;
    std::map<std::pair<uint32_t, int64_t>, std::pair<int32_t, int64_t>> expected;
    for (Ids& each : ids) {
      for (uint64_t n = random() % 60; n > 0; --n) {
        each.push_back(static_cast<int64_t>(random() % 100) - 50);
      }
      Sort(slices, &each);
      each.erase(std::unique(each.begin(), each.end()), each.end());
      const auto input = static_cast<int32_t>(inputs.size());
      inputs.push_back(Input(each, input > 0 && random() % 2 == 0));
      for (size_t row = 0; row < each.size(); ++row) {
        const std::pair key(SliceOf(each[row], slices), each[row]);
        expected.erase(key);
        if (!inputs.back().deleted) expected[key] = {input, static_cast<int64_t>(row)};
      }
    }
    Rows wanted;
    for (const auto& [key, row] : expected) wanted.push_back(row);
    EXPECT(Merged(inputs, slices) == wanted);
  }
}

TEST(GatherMergedTakesWindowsOfItsSources) {
  constexpr int64_t kRows = 5000;
  constexpr size_t kBytes = 12;
  std::vector<std::byte> a(kRows * kBytes), b(kRows * kBytes);
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<std::byte>(i * 7);
    b[i] = static_cast<std::byte>(i * 11 + 3);
  }
  std::vector<int32_t> which;
  Ids rows;
  std::mt19937_64 random(3);
  for (int64_t row = 1000; row < kRows; ++row) {
    which.push_back(random() % 10 == 0);
    rows.push_back(row);
  }
  const auto n = static_cast<int64_t>(rows.size());
  std::vector<std::byte> out(static_cast<size_t>(n) * kBytes);
  // The second source begins with row 1000.
  GatherMerged({{a.data(), 0}, {b.data() + 1000 * kBytes, 1000}}, kBytes, which.data(), rows.data(),
               n, out.data());
  for (int64_t i = 0; i < n; ++i) {
    const std::byte* from = (which[i] == 0 ? a : b).data() + rows[i] * kBytes;
    EXPECT_EQ(std::memcmp(out.data() + i * kBytes, from, kBytes), 0);
  }
}

}  // namespace recis::testing
