// The optimizer kernel of each set against its rules written element by element.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/testing.h"
#include "device/kernels.h"
#include "device/kernels_testing.h"

namespace recis {
namespace {

using testing::Bytes, testing::Narrow, testing::Sets, testing::Wide;

// One record: weight and three states, each of `dim` elements, and a word behind.
template <class W, class S>
struct Record {
  Record(int64_t dim, std::mt19937_64& random) : weight(dim), gradient(dim), states(3 * dim) {
    std::normal_distribution<double> normal;
    for (W& w : weight) w = Narrow<W>(normal(random));
    for (S& g : gradient) g = static_cast<S>(std::ldexp(normal(random), random() % 9 - 8));
    for (S& s : states) s = static_cast<S>(std::fabs(normal(random)));
    gradient[random() % gradient.size()] = 0;
    gradient[random() % gradient.size()] = std::numeric_limits<S>::denorm_min();
  }
  std::vector<W> weight;
  std::vector<S> gradient;
  std::vector<S> states;

  size_t state_offset(int k) const {
    return (weight.size() * sizeof(W) + 15) / 16 * 16 + k * weight.size() * sizeof(S);
  }
  Bytes Packed() const {
    Bytes bytes(state_offset(3) + 16, std::byte{0xaa});
    std::memcpy(bytes.data(), weight.data(), weight.size() * sizeof(W));
    std::memcpy(bytes.data() + state_offset(0), states.data(), states.size() * sizeof(S));
    return bytes;
  }
};

template <class S>
S Effective(S g, S w, const RuleParams& p) {
  g = g / static_cast<S>(p.divisor);
  return p.weight_decay == 0 ? g : g + static_cast<S>(p.weight_decay) * w;
}

template <class S>
void UpdateElement(const RuleParams& p, S& w, S g, S& s0, S& s1, S& s2) {
  const S step = static_cast<S>(p.step_size), eps = static_cast<S>(p.eps);
  const S momentum = static_cast<S>(p.momentum);
  const S beta1 = static_cast<S>(p.beta1), rest1 = static_cast<S>(1 - p.beta1);
  const S beta2 = static_cast<S>(p.beta2), rest2 = static_cast<S>(1 - p.beta2);
  g = Effective(g, w, p);
  if (p.rule == Rule::kSgd) {
    if (momentum != 0) {
      s0 = momentum * s0 + g;
      g = p.nesterov ? g + momentum * s0 : s0;
    }
    w = w - step * g;
  } else if (p.rule == Rule::kAdagrad) {
    s0 = s0 + g * g;
    w = w - step * (g / (std::sqrt(s0) + eps));
  } else {
    w = w * static_cast<S>(p.decay);
    s0 = beta1 * s0 + rest1 * g;
    s1 = beta2 * s1 + rest2 * (g * g);
    if (p.amsgrad) s2 = std::max(s1, s2);
    const S m = p.nesterov ? beta1 * s0 + rest1 * g : s0;
    w = w - step * (m / (std::sqrt(p.amsgrad ? s2 : s1) + eps));
  }
}

// The mean square is summed in as many strands as 64 bytes hold, then folded in halves.
template <class W, class S>
void UpdateRowWise(const RuleParams& p, Record<W, S>& record) {
  constexpr int kStrands = 64 / sizeof(S);
  S strands[kStrands] = {};
  for (size_t i = 0; i < record.weight.size(); ++i) {
    const S g = Effective(record.gradient[i], S{Wide(record.weight[i])}, p);
    strands[i % kStrands] += g * g;
  }
  for (int half = kStrands / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) strands[i] += strands[i + half];
  }
  S& sum = record.states[0];
  sum += strands[0] / static_cast<S>(record.weight.size());
  const S rate = static_cast<S>(p.step_size) / (std::sqrt(sum) + static_cast<S>(p.eps));
  for (size_t i = 0; i < record.weight.size(); ++i) {
    const S w = Wide(record.weight[i]);
    record.weight[i] = Narrow<W>(w - rate * Effective(record.gradient[i], w, p));
  }
}

template <class W, class S>
void UpdateRecord(const RuleParams& p, Record<W, S>& record) {
  if (p.rule == Rule::kRowWiseAdagrad) return UpdateRowWise(p, record);
  const size_t dim = record.weight.size();
  for (size_t i = 0; i < dim; ++i) {
    S w = Wide(record.weight[i]);
    UpdateElement(p, w, record.gradient[i], record.states[i], record.states[dim + i],
                  record.states[2 * dim + i]);
    record.weight[i] = Narrow<W>(w);
  }
}

template <class W, class S>
void CheckUpdate(const RuleParams& params, DType dtype, int64_t dim) {
  std::mt19937_64 random(static_cast<uint64_t>(dim));
  std::vector<Record<W, S>> records(3, {dim, random});
  for (auto& record : records) record = {dim, random};
  for (const bool first : {true, false}) {
    // The second round starts from what the first one left.
    std::vector<Bytes> before;
    std::vector<const void*> gradients;
    for (const auto& record : records) {
      before.push_back(record.Packed());
      gradients.push_back(record.gradient.data());
    }
    for (auto& record : records) UpdateRecord(params, record);
    for (const Kernels* set : Sets()) {
      auto bytes = before;
      std::vector<std::byte*> at;
      for (auto& record : bytes) at.push_back(record.data());
      const auto& layout = records[0];
      set->update({at.data(),
                   gradients.data(),
                   3,
                   dim,
                   dtype,
                   {0, {layout.state_offset(0), layout.state_offset(1), layout.state_offset(2)}},
                   &params});
      for (int i = 0; i < 3; ++i) {
        EXPECT(bytes[i] == records[i].Packed(), set->name, static_cast<int>(params.rule),
               static_cast<int>(dtype), dim, i, first);
      }
    }
  }
}

// Sizes with and without weight decay and accumulated steps.
void CheckEveryTypeAndSize(RuleParams params) {
  params.step_size = 0.05;
  params.eps = 1e-8;
  for (int64_t dim = 1; dim <= 140; dim += dim < 70 ? 1 : 23) {
    params.weight_decay = dim % 2 == 0 ? 0 : 0.01;
    params.divisor = dim % 3 == 0 ? 3 : 1;
    CheckUpdate<float, float>(params, DType::kFloat32, dim);
    CheckUpdate<double, double>(params, DType::kFloat64, dim);
    CheckUpdate<Half, float>(params, DType::kFloat16, dim);
    CheckUpdate<BFloat16, float>(params, DType::kBFloat16, dim);
  }
}

TEST(SgdFollowsItsRule) {
  CheckEveryTypeAndSize({.rule = Rule::kSgd});
  CheckEveryTypeAndSize({.rule = Rule::kSgd, .momentum = 0.9});
  CheckEveryTypeAndSize({.rule = Rule::kSgd, .momentum = 0.9, .nesterov = true});
}

TEST(AdagradFollowsItsRule) { CheckEveryTypeAndSize({.rule = Rule::kAdagrad}); }

TEST(RowWiseAdagradFollowsItsRule) { CheckEveryTypeAndSize({.rule = Rule::kRowWiseAdagrad}); }

TEST(AdamFollowsItsRule) {
  for (const bool amsgrad : {false, true}) {
    for (const bool nesterov : {false, true}) {
      for (const double decay : {1.0, 0.99}) {
        CheckEveryTypeAndSize({.rule = Rule::kAdam,
                               .decay = decay,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .amsgrad = amsgrad,
                               .nesterov = nesterov});
      }
    }
  }
}

}  // namespace
}  // namespace recis
