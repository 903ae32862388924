#include "table/bags.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "base/thread_pool.h"

namespace recis {
namespace {

constexpr int64_t kDim = 5;

// Rows of zero to many ids, of which a few are frequent and some have none.
struct Example {
  explicit Example(int64_t bags, uint64_t seed = 1) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> uniform;
    offsets.push_back(0);
    for (int64_t bag = 0; bag < bags; ++bag) {
      offsets.push_back(offsets.back() + static_cast<int64_t>(12 * std::pow(uniform(random), 3)));
    }
    for (int64_t i = 0; i < offsets.back(); ++i) {
      inverse.push_back(static_cast<int64_t>(kDistinct * std::pow(uniform(random), 4)));
      weights.push_back(static_cast<float>(uniform(random) - 0.5));
    }
    for (int64_t i = 0; i < kDistinct * kDim; ++i) {
      embeddings.push_back(static_cast<float>(uniform(random) - 0.5));
    }
    for (int64_t i = 0; i < bags * kDim; ++i) {
      grads.push_back(static_cast<float>(uniform(random) - 0.5));
    }
  }
  Bags Made() const {
    auto made = Bags::Make(inverse.data(), static_cast<int64_t>(inverse.size()), offsets.data(),
                           bags(), kDistinct);
    return std::move(made.value());
  }
  int64_t bags() const { return static_cast<int64_t>(offsets.size()) - 1; }

  static constexpr int64_t kDistinct = 400;
  std::vector<int64_t> inverse, offsets;
  std::vector<float> weights, embeddings, grads;
};

float WeightOf(const Example& e, int64_t bag, int64_t i, bool weighted, bool mean) {
  const auto count = static_cast<float>(e.offsets[bag + 1] - e.offsets[bag]);
  return (weighted ? e.weights[i] : 1.0f) * (mean ? 1.0f / count : 1.0f);
}

TEST(BagsSumEmbeddingsAndSpreadGradients) {
  for (const int64_t bags : {0, 1, 3, 5000}) {
    const Example e(bags);
    for (const int kind : {0, 1, 2}) {  // sum, weighted sum, mean
      const bool weighted = kind == 1, mean = kind == 2;
      std::vector<double> sums(bags * kDim), spread(Example::kDistinct * kDim);
      for (int64_t bag = 0; bag < bags; ++bag) {
        for (int64_t i = e.offsets[bag]; i < e.offsets[bag + 1]; ++i) {
          const double weight = WeightOf(e, bag, i, weighted, mean);
          for (int64_t d = 0; d < kDim; ++d) {
            sums[bag * kDim + d] += weight * e.embeddings[e.inverse[i] * kDim + d];
            spread[e.inverse[i] * kDim + d] += weight * e.grads[bag * kDim + d];
          }
        }
      }
      const float* weights = weighted ? e.weights.data() : nullptr;
      std::vector<float> first_sums, first_spread;
      for (const int threads : {1, 2, 3, 7}) {
        SetThreadCount(threads);
        const Bags made = e.Made();
        std::vector<float> got_sums(sums.size(), NAN), got_spread(spread.size(), NAN);
        made.Sum(e.embeddings.data(), DType::kFloat32, kDim, weights, mean, got_sums.data());
        made.Spread(e.grads.data(), DType::kFloat32, kDim, weights, mean, got_spread.data());
        for (size_t i = 0; i < sums.size(); ++i) {
          EXPECT(std::fabs(got_sums[i] - sums[i]) < 1e-5, bags, kind, i);
        }
        for (size_t i = 0; i < spread.size(); ++i) {
          EXPECT(std::fabs(got_spread[i] - spread[i]) < 1e-3, bags, kind, i);
        }
        if (threads == 1) first_sums = got_sums, first_spread = got_spread;
        EXPECT(got_sums == first_sums && got_spread == first_spread, bags, kind, threads);
      }
      SetThreadCount(1);
    }
  }
}

TEST(BagsRefuseWhatTheyWouldReadBeyond) {
  const auto code = [](std::vector<int64_t> inverse, std::vector<int64_t> offsets) {
    return Bags::Make(inverse.data(), static_cast<int64_t>(inverse.size()), offsets.data(),
                      static_cast<int64_t>(offsets.size()) - 1, 3)
        .status()
        .code();
  };
  EXPECT(code({0, 2}, {0, 1, 2}) == Code::kOk);
  EXPECT(code({}, {0}) == Code::kOk);
  EXPECT(code({}, {}) == Code::kOutOfRange);
  EXPECT(code({0, 3}, {0, 1, 2}) == Code::kOutOfRange);
  EXPECT(code({0, -1}, {0, 1, 2}) == Code::kOutOfRange);
  EXPECT(code({0, 1}, {0, 1, 3}) == Code::kOutOfRange);
  EXPECT(code({0, 1}, {0, 1}) == Code::kOutOfRange);
  EXPECT(code({0, 1}, {1, 2}) == Code::kOutOfRange);
  EXPECT(code({0, 1}, {0, 3, 2}) == Code::kOutOfRange);
}

}  // namespace
}  // namespace recis
