#include "table/gradient.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "base/thread_pool.h"
#include "device/kernels.h"

namespace recis {
namespace {

constexpr int kDim = 5;
using Sum = std::vector<float>;

// What a gradient must hold: for each row its sum, in float, term by term.
class Model {
 public:
  void Add(const std::vector<Row>& rows, const std::vector<uint32_t>& inverse,
           const std::vector<float>& values, bool mean, float divisor) {
    std::vector<Sum> added(rows.size()), runs(rows.size());
    std::vector<int64_t> counts(rows.size());
    const auto end_run = [&](size_t number) {
      Sum& sum = added[number];
      if (sum.empty()) sum = std::exchange(runs[number], {});
      for (int k = 0; !runs[number].empty() && k < kDim; ++k) sum[k] += runs[number][k];
      runs[number].clear();
    };
    for (size_t i = 0; i < inverse.size(); ++i) {
      const float* value = values.data() + i * kDim;
      Sum& run = runs[inverse[i]];
      if (run.empty()) {
        run.assign(value, value + kDim);
      } else {
        for (int k = 0; k < kDim; ++k) run[k] += value[k];
      }
      if (++counts[inverse[i]] % SegmentSumArgs::kRun == 0) end_run(inverse[i]);
    }
    for (size_t i = 0; i < rows.size(); ++i) end_run(i);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] == kNoRow) continue;
      for (float& s : added[i]) s /= mean ? divisor * static_cast<float>(counts[i]) : divisor;
      const auto [place, is_new] = sums.emplace(rows[i], added[i]);
      for (int k = 0; !is_new && k < kDim; ++k) place->second[k] += added[i][k];
    }
  }
  std::map<Row, Sum> sums;
};

void Add(Gradient& gradient, const std::vector<Row>& rows, const std::vector<uint32_t>& inverse,
         const std::vector<float>& values, bool mean = false, double divisor = 1) {
  const auto distinct = static_cast<int64_t>(rows.size());
  const Occurrences occurrences(inverse.data(), static_cast<int64_t>(inverse.size()), distinct);
  gradient.Add(rows.data(), distinct, occurrences, values.data(), DType::kFloat32, mean, divisor);
}

// Gives row its gradient `value` in every column.
void AddOne(Gradient& gradient, Row row, float value) {
  Add(gradient, {row}, {0}, Sum(kDim, value));
}

std::map<Row, Sum> Sums(const Gradient& gradient) {
  std::map<Row, Sum> sums;
  for (const Gradient::Entry& entry : gradient.Entries(false)) {
    const auto* sum = reinterpret_cast<const float*>(gradient.At(entry.index));
    EXPECT(sums.emplace(entry.row, Sum(sum, sum + kDim)).second, entry.row);
  }
  return sums;
}

std::vector<Row> Rows(const Gradient& gradient, bool ascending) {
  std::vector<Row> rows;
  for (const Gradient::Entry& entry : gradient.Entries(ascending)) rows.push_back(entry.row);
  return rows;
}

TEST(AnEmptyGradientHasNoEntries) {
  Gradient gradient(DType::kFloat32, kDim);
  EXPECT(gradient.empty());
  gradient.Drop(3);
  Add(gradient, {}, {}, {});
  Add(gradient, {kNoRow}, {0, 0}, Sum(2 * kDim, 1));
  EXPECT_EQ(gradient.Entries(true).size(), 0u);
}

TEST(EntriesStandInTheOrderOfTheirFirstContribution) {
  Gradient gradient(DType::kFloat32, kDim);
  Add(gradient, {9, 2, kNoRow, 7}, {0, 1, 2, 3}, Sum(4 * kDim, 1));
  Add(gradient, {4, 9}, {0, 1}, Sum(2 * kDim, 1));
  EXPECT_EQ(Rows(gradient, false), (std::vector<Row>{9, 2, 7, 4}));
  EXPECT_EQ(Rows(gradient, true), (std::vector<Row>{2, 4, 7, 9}));
}

TEST(ADroppedRowStartsFromNothingWhenItComesBack) {
  Gradient gradient(DType::kFloat32, kDim);
  AddOne(gradient, 5, 10);
  AddOne(gradient, 6, 20);
  gradient.Drop(5);
  gradient.Drop(77);
  EXPECT_EQ(Sums(gradient), (std::map<Row, Sum>{{6, Sum(kDim, 20)}}));
  AddOne(gradient, 5, 1);
  AddOne(gradient, 5, 2);
  EXPECT_EQ(Sums(gradient), (std::map<Row, Sum>{{5, Sum(kDim, 3)}, {6, Sum(kDim, 20)}}));
}

TEST(ClearStartsAgain) {
  Gradient gradient(DType::kFloat32, kDim);
  AddOne(gradient, 5, 10);
  gradient.Drop(5);
  gradient.Clear();
  EXPECT(gradient.empty());
  AddOne(gradient, 8, 1);
  AddOne(gradient, 5, 2);
  EXPECT_EQ(Sums(gradient), (std::map<Row, Sum>{{5, Sum(kDim, 2)}, {8, Sum(kDim, 1)}}));
}

TEST(AccumulatorsOfADoubleTableAreDoubles) {
  Gradient gradient(DType::kFloat64, 1);
  const Row rows[] = {0};
  const uint32_t inverse[] = {0, 0};
  const double values[] = {1, 0x1p-52};
  gradient.Add(rows, 1, Occurrences(inverse, 2, 1), values, DType::kFloat64, false, 1);
  double sum;
  std::memcpy(&sum, gradient.At(0), sizeof(sum));
  EXPECT_EQ(sum, 1 + 0x1p-52);
}

// Skewed batches of up to 20,000 positions: many fall to one row, some rows are refused.
void CheckAgainstAMap(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Gradient gradient(DType::kFloat32, kDim);
  Model model;
  for (int round = 0; round < 12; ++round) {
    std::vector<Row> rows(1 + random() % 300);
    for (Row& row : rows) row = static_cast<Row>(&row - rows.data()) * 7 % 401;  // distinct
    for (Row& row : rows) row = random() % 8 == 0 ? kNoRow : row;
    std::vector<uint32_t> inverse(rows.size() + random() % 20000);
    for (uint32_t i = 0; i < inverse.size(); ++i) {
      const uint64_t number = random() % (random() % rows.size() + 1);
      inverse[i] = i < rows.size() ? i : static_cast<uint32_t>(number);
    }
    std::vector<float> values(inverse.size() * kDim);
    for (float& value : values) value = normal(random);
    const bool mean = random() % 2;
    const float divisor = static_cast<float>(1 + random() % 3);
    Add(gradient, rows, inverse, values, mean, divisor);
    model.Add(rows, inverse, values, mean, divisor);
    for (int i = 0; i < 30; ++i) {
      const Row dropped = static_cast<Row>(random() % 401);
      gradient.Drop(dropped);
      model.sums.erase(dropped);
    }
    EXPECT(Sums(gradient) == model.sums, seed, round);
  }
}

TEST(SumsAreThoseOfAMapForAnyThreadCount) {
  for (const int threads : {1, 2, 4}) {
    SetThreadCount(threads);
    CheckAgainstAMap(1);
    CheckAgainstAMap(2);
  }
}

}  // namespace
}  // namespace recis
