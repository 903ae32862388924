// Optimizer rules. See kernels_impl.h.
#pragma once

#include "device/kernels.h"
#include "device/vector_impl.h"

namespace recis {
namespace {

// Hyper-parameters in the type the arithmetic is done in.
template <class S>
struct Scalars {
  RECIS_HOST_DEVICE explicit Scalars(const RuleParams& p)
      : step_size(static_cast<S>(p.step_size)),
        weight_decay(static_cast<S>(p.weight_decay)),
        decay(static_cast<S>(p.decay)),
        momentum(static_cast<S>(p.momentum)),
        beta1(static_cast<S>(p.beta1)),
        beta2(static_cast<S>(p.beta2)),
        rest1(static_cast<S>(1 - p.beta1)),
        rest2(static_cast<S>(1 - p.beta2)),
        eps(static_cast<S>(p.eps)),
        divisor(static_cast<S>(p.divisor)) {}
  S step_size, weight_decay, decay, momentum, beta1, beta2, rest1, rest2, eps, divisor;
};

// Gradient as a rule sees it: averaged over the accumulated steps, weight decay added.
template <class S>
RECIS_INLINE Vector<S> Effective(Vector<S> g, Vector<S> w, const Scalars<S>& p) {
  if (p.divisor != 1) g = g / p.divisor;
  if (p.weight_decay != 0) g = g + p.weight_decay * w;
  return g;
}

// What a rule reads and writes of one row.
template <class W, class S>
struct Operands {
  RECIS_HOST_DEVICE Operands(const RecordPlaces& places, std::byte* record, const void* values)
      : weight(reinterpret_cast<W*>(record + places.weight)),
        gradient(static_cast<const S*>(values)) {
    for (int k = 0; k < kMaxStates; ++k) {
      state[k] = reinterpret_cast<S*>(record + places.states[k]);
    }
  }
  W* weight;
  const S* gradient;
  S* state[kMaxStates];
};

struct SgdRule {
  template <class W, class S>
  RECIS_INLINE void Apply(const Operands<W, S>& row, int64_t at, int lanes, const Scalars<S>& p,
                          const RuleParams& flags) {
    Vector<S> w = Load<S>(row.weight + at, lanes);
    Vector<S> g = Effective<S>(Load<S>(row.gradient + at, lanes), w, p);
    if (flags.momentum != 0) {
      Vector<S> velocity = p.momentum * Load<S>(row.state[0] + at, lanes) + g;
      Store<S>(velocity, row.state[0] + at, lanes);
      g = flags.nesterov ? g + p.momentum * velocity : velocity;
    }
    Store<S>(w - p.step_size * g, row.weight + at, lanes);
  }
};

struct AdagradRule {
  template <class W, class S>
  RECIS_INLINE void Apply(const Operands<W, S>& row, int64_t at, int lanes, const Scalars<S>& p,
                          const RuleParams&) {
    const Vector<S> w = Load<S>(row.weight + at, lanes);
    const Vector<S> g = Effective<S>(Load<S>(row.gradient + at, lanes), w, p);
    const Vector<S> sum = Load<S>(row.state[0] + at, lanes) + g * g;
    Store<S>(sum, row.state[0] + at, lanes);
    Store<S>(w - p.step_size * (g / (Sqrt(sum) + p.eps)), row.weight + at, lanes);
  }
};

struct AdamRule {
  template <class W, class S>
  RECIS_INLINE void Apply(const Operands<W, S>& row, int64_t at, int lanes, const Scalars<S>& p,
                          const RuleParams& flags) {
    Vector<S> w = Load<S>(row.weight + at, lanes);
    const Vector<S> g = Effective<S>(Load<S>(row.gradient + at, lanes), w, p);
    if (p.decay != 1) w = w * p.decay;
    const Vector<S> m = p.beta1 * Load<S>(row.state[0] + at, lanes) + p.rest1 * g;
    Vector<S> v = p.beta2 * Load<S>(row.state[1] + at, lanes) + p.rest2 * (g * g);
    Store<S>(m, row.state[0] + at, lanes);
    Store<S>(v, row.state[1] + at, lanes);
    if (flags.amsgrad) {
      v = Max(v, Load<S>(row.state[2] + at, lanes));
      Store<S>(v, row.state[2] + at, lanes);
    }
    const Vector<S> direction = flags.nesterov ? p.beta1 * m + p.rest1 * g : m;
    Store<S>(w - p.step_size * (direction / (Sqrt(v) + p.eps)), row.weight + at, lanes);
  }
};

template <class Rule, class W, class S>
void UpdateRows(const UpdateArgs& args) {
  constexpr int kWidth = kLanes<S>;
  const Scalars<S> p(*args.params);
  const RuleParams flags = *args.params;
  for (int64_t i = 0; i < args.n; ++i) {
    const Operands<W, S> row(args.places, args.records[i], args.gradients[i]);
    int64_t at = 0;
    for (; at + kWidth <= args.dim; at += kWidth) {
      Rule::template Apply<W, S>(row, at, kWidth, p, flags);
    }
    if (at < args.dim) {
      Rule::template Apply<W, S>(row, at, static_cast<int>(args.dim - at), p, flags);
    }
  }
}

// One state per row: the mean of the squared gradient. It is summed in strands, as many as a
// vector of 64 bytes has lanes, which are then folded in halves, whatever the registers hold.
template <class S>
constexpr int kStrands = 64 / sizeof(S);

struct RowWiseAdagradRule {
  // The squares of these elements' gradients.
  template <class W, class S>
  RECIS_INLINE Vector<S> Squares(const Operands<W, S>& row, int64_t at, int lanes,
                                 const Scalars<S>& p) {
    const Vector<S> g =
        Effective<S>(Load<S>(row.gradient + at, lanes), Load<S>(row.weight + at, lanes), p);
    return g * g;
  }
  // The state after this step.
  template <class W, class S>
  RECIS_INLINE S Sum(const Operands<W, S>& row, S squares, int64_t dim) {
    return *row.state[0] + squares / static_cast<S>(dim);
  }
  template <class W, class S>
  RECIS_INLINE void Apply(const Operands<W, S>& row, int64_t at, int lanes, const Scalars<S>& p,
                          S sum) {
    const Vector<S> rate = p.step_size / (Sqrt(Vector<S>{} + sum) + p.eps);
    const Vector<S> w = Load<S>(row.weight + at, lanes);
    const Vector<S> g = Effective<S>(Load<S>(row.gradient + at, lanes), w, p);
    Store<S>(w - rate * g, row.weight + at, lanes);
  }
};

template <class W, class S>
void UpdateRowWiseAdagrad(const UpdateArgs& args) {
  constexpr int kWidth = kLanes<S>;
  const Scalars<S> p(*args.params);
  const auto lanes_at = [&](int64_t at) {
    return static_cast<int>(args.dim - at < kWidth ? args.dim - at : kWidth);
  };
  for (int64_t i = 0; i < args.n; ++i) {
    const Operands<W, S> row(args.places, args.records[i], args.gradients[i]);
    constexpr int kVectors = kStrands<S> / kWidth;
    Vector<S> squares[kVectors]{};
    for (int64_t at = 0; at < args.dim; at += kWidth) {
      Vector<S>& some = squares[at / kWidth % kVectors];
      some = some + RowWiseAdagradRule::Squares<W, S>(row, at, lanes_at(at), p);
    }
    S strands[kStrands<S>];
    __builtin_memcpy(strands, squares, sizeof(squares));
    for (int half = kStrands<S> / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) strands[lane] += strands[lane + half];
    }
    const S sum = RowWiseAdagradRule::Sum<W, S>(row, strands[0], args.dim);
    *row.state[0] = sum;
    for (int64_t at = 0; at < args.dim; at += kWidth) {
      RowWiseAdagradRule::Apply<W, S>(row, at, lanes_at(at), p, sum);
    }
  }
}

template <class W, class S>
void UpdateWith(const UpdateArgs& args) {
  switch (args.params->rule) {
    case Rule::kSgd:
      return UpdateRows<SgdRule, W, S>(args);
    case Rule::kAdagrad:
      return UpdateRows<AdagradRule, W, S>(args);
    case Rule::kRowWiseAdagrad:
      return UpdateRowWiseAdagrad<W, S>(args);
    case Rule::kAdam:
      return UpdateRows<AdamRule, W, S>(args);
  }
}

[[maybe_unused]] void Update(const UpdateArgs& args) {
  switch (args.dtype) {
    case DType::kFloat32:
      return UpdateWith<float, float>(args);
    case DType::kFloat64:
      return UpdateWith<double, double>(args);
    case DType::kFloat16:
      return UpdateWith<Half, float>(args);
    case DType::kBFloat16:
      return UpdateWith<BFloat16, float>(args);
    default:
      __builtin_unreachable();  // integer tables take no optimizer
  }
}

}  // namespace
}  // namespace recis
