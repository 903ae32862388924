// The body of every kernel, compiled once for each instruction set.
//
// A file that includes this defines RECIS_KERNELS (the table to fill in) and
// RECIS_KERNELS_NAME. Everything is in an unnamed namespace and nothing from the
// standard library is called: an inline function shared between files that are compiled
// for different instruction sets could end up, by the linker's choice, with instructions
// this processor lacks.
//
// Elements are worked on in vectors of 64 bytes, whatever the registers hold: the
// compiler splits them. The last, partial vector of a row is padded with zeros.

#include "base/dtype.h"
#include "base/philox.h"
#include "device/kernels.h"
#include "device/normal.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace recis {
namespace {

#define RECIS_INLINE static inline __attribute__((always_inline))

typedef float FloatVector __attribute__((vector_size(64)));
typedef double DoubleVector __attribute__((vector_size(64)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = FloatVector;
};
template <>
struct VectorOf<double> {
  using Type = DoubleVector;
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
constexpr int kLanes = 64 / sizeof(T);

RECIS_INLINE FloatVector Sqrt(FloatVector x) {
#if defined(__AVX512F__)
  return (FloatVector)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__SSE2__)
  FloatVector out;
  for (int i = 0; i < 4; ++i) {
    __m128 part;
    __builtin_memcpy(&part, reinterpret_cast<const char*>(&x) + 16 * i, 16);
    part = _mm_sqrt_ps(part);
    __builtin_memcpy(reinterpret_cast<char*>(&out) + 16 * i, &part, 16);
  }
  return out;
#else
  for (int i = 0; i < kLanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

RECIS_INLINE DoubleVector Sqrt(DoubleVector x) {
#if defined(__AVX512F__)
  return (DoubleVector)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#else
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

RECIS_INLINE FloatVector Max(FloatVector a, FloatVector b) { return a > b ? a : b; }
RECIS_INLINE DoubleVector Max(DoubleVector a, DoubleVector b) { return a > b ? a : b; }

// Loads and stores of `count` elements, converted between T as stored and S as computed.
template <class S>
RECIS_INLINE Vector<S> Load(const S* from, int count) {
  Vector<S> out{};
  if (count == kLanes<S>) {
    __builtin_memcpy(&out, from, 64);
  } else {
    __builtin_memcpy(&out, from, sizeof(S) * count);
  }
  return out;
}
template <class S>
RECIS_INLINE void Store(Vector<S> value, S* to, int count) {
  if (count == kLanes<S>) {
    __builtin_memcpy(to, &value, 64);
  } else {
    __builtin_memcpy(to, &value, sizeof(S) * count);
  }
}
template <class S, class T>
RECIS_INLINE Vector<S> LoadNarrow(const T* from, int count) {
  float wide[kLanes<float>] = {};
  if (count == kLanes<float>) {
    for (int i = 0; i < kLanes<float>; ++i) wide[i] = ToFloat(from[i]);
  } else {
    for (int i = 0; i < count; ++i) wide[i] = ToFloat(from[i]);
  }
  Vector<S> out;
  __builtin_memcpy(&out, wide, 64);
  return out;
}
template <class S>
RECIS_INLINE Vector<S> Load(const Half* from, int count) {
  return LoadNarrow<S>(from, count);
}
template <class S>
RECIS_INLINE Vector<S> Load(const BFloat16* from, int count) {
  return LoadNarrow<S>(from, count);
}
RECIS_INLINE void Narrow(float from, Half* to) { *to = ToHalf(from); }
RECIS_INLINE void Narrow(float from, BFloat16* to) { *to = ToBFloat16(from); }
template <class S, class T>
RECIS_INLINE void StoreNarrow(Vector<S> value, T* to, int count) {
  float wide[kLanes<float>];
  __builtin_memcpy(wide, &value, 64);
  if (count == kLanes<float>) {
    for (int i = 0; i < kLanes<float>; ++i) Narrow(wide[i], to + i);
  } else {
    for (int i = 0; i < count; ++i) Narrow(wide[i], to + i);
  }
}
template <class S>
RECIS_INLINE void Store(Vector<S> value, Half* to, int count) {
  StoreNarrow<S>(value, to, count);
}
template <class S>
RECIS_INLINE void Store(Vector<S> value, BFloat16* to, int count) {
  StoreNarrow<S>(value, to, count);
}

// ---- gather -------------------------------------------------------------------------

RECIS_INLINE void CopyRow(const std::byte* from, std::byte* to, size_t bytes) {
  size_t i = 0;
  for (; i + 64 <= bytes; i += 64) __builtin_memcpy(to + i, from + i, 64);
  if (bytes & 32) __builtin_memcpy(to + i, from + i, 32), i += 32;
  if (bytes & 16) __builtin_memcpy(to + i, from + i, 16), i += 16;
  if (bytes & 8) __builtin_memcpy(to + i, from + i, 8), i += 8;
  if (bytes & 4) __builtin_memcpy(to + i, from + i, 4), i += 4;
  if (bytes & 2) __builtin_memcpy(to + i, from + i, 2), i += 2;
  if (bytes & 1) to[i] = from[i];
}

#if defined(__SSE2__)
RECIS_INLINE void StreamRow(const std::byte* from, std::byte* to, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#else
    for (int part = 0; part < 64; part += 16) {
      __m128i piece;
      __builtin_memcpy(&piece, from + i + part, 16);
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + part), piece);
    }
#endif
  }
}
#endif

void Gather(const std::byte* const* sources, int64_t n, size_t bytes, std::byte* out,
            [[maybe_unused]] bool stream) {
#if defined(__SSE2__)
  if (stream && bytes % 64 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0) {
    for (int64_t i = 0; i < n; ++i, out += bytes) {
      if (sources[i] != nullptr) {
        StreamRow(sources[i], out, bytes);
      } else {
        __builtin_memset(out, 0, bytes);
      }
    }
    _mm_sfence();
    return;
  }
#endif
  for (int64_t i = 0; i < n; ++i, out += bytes) {
    if (sources[i] != nullptr) {
      CopyRow(sources[i], out, bytes);
    } else {
      __builtin_memset(out, 0, bytes);
    }
  }
}

// ---- segment sum --------------------------------------------------------------------

// Sums kVectors vectors of columns at once, so that they stay in registers.
template <int kVectors, class T, class S>
RECIS_INLINE void SumColumns(const T* values, int64_t dim, const uint32_t* positions,
                             int64_t count, bool fresh, S divisor, S* sum, int last) {
  constexpr int kWidth = kLanes<S>;
  Vector<S> total[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int lanes = v + 1 == kVectors ? last : kWidth;
    total[v] = Load<S>(values + positions[0] * dim + v * kWidth, lanes);
  }
  for (int64_t k = 1; k < count; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      const int lanes = v + 1 == kVectors ? last : kWidth;
      total[v] = total[v] + Load<S>(values + positions[k] * dim + v * kWidth, lanes);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const int lanes = v + 1 == kVectors ? last : kWidth;
    if (divisor != 1) total[v] = total[v] / divisor;
    if (!fresh) total[v] = Load<S>(sum + v * kWidth, lanes) + total[v];
    Store<S>(total[v], sum + v * kWidth, lanes);
  }
}

template <class T, class S>
void SumSegments(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  constexpr int kWidth = kLanes<S>;
  const T* values = static_cast<const T*>(args.values);
  for (int64_t segment = begin; segment < end; ++segment) {
    if (args.targets[segment] == SegmentSumArgs::kSkip) continue;
    const uint32_t first = args.offsets[segment];
    const int64_t count = args.offsets[segment + 1] - first;
    const uint32_t* positions = args.positions + first;
    S* sum = static_cast<S*>(args.sums) + args.targets[segment] * args.dim;
    const bool fresh = args.fresh[segment];
    const S divisor = static_cast<S>(args.mean ? args.divisor * count : args.divisor);
    int64_t column = 0;
    for (; column + 4 * kWidth <= args.dim; column += 4 * kWidth) {
      SumColumns<4>(values + column, args.dim, positions, count, fresh, divisor, sum + column,
                    kWidth);
    }
    for (; column < args.dim; column += kWidth) {
      const int64_t left = args.dim - column;
      const int lanes = left < kWidth ? static_cast<int>(left) : kWidth;
      SumColumns<1>(values + column, args.dim, positions, count, fresh, divisor, sum + column,
                    lanes);
    }
  }
}

void SegmentSum(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  switch (args.dtype) {
    case DType::kFloat32:
      return SumSegments<float, float>(args, begin, end);
    case DType::kFloat64:
      return SumSegments<double, double>(args, begin, end);
    case DType::kFloat16:
      return SumSegments<Half, float>(args, begin, end);
    case DType::kBFloat16:
      return SumSegments<BFloat16, float>(args, begin, end);
    default:
      __builtin_unreachable();  // integer tables take no gradient
  }
}

// ---- first values -------------------------------------------------------------------

constexpr int kDrawLanes = 32;              // counters at once
constexpr int kDrawBlock = 2 * kDrawLanes;  // elements at once: two words each

// Uniform draws in (0, 1), elements [first, first + kDrawBlock) of the row: odd multiples
// of 2^-53, so neither end and the middle are ever met.
RECIS_INLINE void DrawUniform(uint64_t seed, int64_t id, int64_t first,
                              double (&out)[kDrawBlock]) {
  uint32_t words[4][kDrawLanes];
  PhiloxLanes<kDrawLanes>(seed, id, /*stream=*/0, static_cast<uint32_t>(first / 2), words);
  for (int i = 0; i < kDrawLanes; ++i) {
    for (int half = 0; half < 2; ++half) {
      const uint64_t word =
          (static_cast<uint64_t>(words[2 * half + 1][i]) << 32) | words[2 * half][i];
      const double unit = __builtin_bit_cast(double, (word >> 12) | 0x3ff0000000000000u);
      out[2 * i + half] = (unit - 1.0) + 0x1p-53;
    }
  }
}

RECIS_INLINE void DrawBlock(const DrawArgs& args, int64_t id, int64_t first,
                            double (&out)[kDrawBlock]) {
  const double shift = args.shift, scale = args.scale;
  switch (args.distribution) {
    case Distribution::kConstant:
      for (int i = 0; i < kDrawBlock; ++i) out[i] = shift;
      return;
    case Distribution::kUniform:
      DrawUniform(args.seed, id, first, out);
      for (int i = 0; i < kDrawBlock; ++i) out[i] = shift + scale * out[i];
      return;
    case Distribution::kNormal:
      DrawUniform(args.seed, id, first, out);
      for (int i = 0; i < kDrawBlock; ++i) out[i] = shift + scale * Quantile(out[i]);
      return;
    case Distribution::kTruncatedNormal: {
      DrawUniform(args.seed, id, first, out);
      const double low = args.low, width = args.high - args.low;
      for (int i = 0; i < kDrawBlock; ++i) {
        out[i] = shift + scale * Quantile(low + width * out[i]);
      }
      return;
    }
  }
}

template <class T>
RECIS_INLINE void Put(const double* from, int count, std::byte* to) {
  T* typed = reinterpret_cast<T*>(to);
  for (int i = 0; i < count; ++i) typed[i] = static_cast<T>(from[i]);
}

void Draw(const DrawArgs& args, int64_t id, DType dtype, int64_t count, std::byte* out) {
  for (int64_t first = 0; first < count; first += kDrawBlock) {
    double block[kDrawBlock];
    DrawBlock(args, id, first, block);
    const int n = static_cast<int>(count - first < kDrawBlock ? count - first : kDrawBlock);
    std::byte* to = out + first * SizeOf(dtype);
    switch (dtype) {
      case DType::kFloat32:
        Put<float>(block, n, to);
        break;
      case DType::kFloat64:
        Put<double>(block, n, to);
        break;
      case DType::kFloat16:
        for (int i = 0; i < n; ++i) {
          reinterpret_cast<Half*>(to)[i] = ToHalf(static_cast<float>(block[i]));
        }
        break;
      case DType::kBFloat16:
        for (int i = 0; i < n; ++i) {
          reinterpret_cast<BFloat16*>(to)[i] = ToBFloat16(static_cast<float>(block[i]));
        }
        break;
      case DType::kInt8:
        Put<int8_t>(block, n, to);
        break;
      case DType::kInt32:
        Put<int32_t>(block, n, to);
        break;
      case DType::kInt64:
        Put<int64_t>(block, n, to);
        break;
    }
  }
}

// ---- optimizers ---------------------------------------------------------------------

// Hyper-parameters in the type the arithmetic is done in.
template <class S>
struct Scalars {
  explicit Scalars(const RuleParams& p)
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

template <class W, class S>
struct Row {
  Row(const UpdateArgs& args, int64_t i)
      : weight(reinterpret_cast<W*>(args.records[i] + args.weight_offset)),
        gradient(static_cast<const S*>(args.gradients[i])) {
    for (int k = 0; k < kMaxStates; ++k) {
      state[k] = reinterpret_cast<S*>(args.records[i] + args.state_offsets[k]);
    }
  }
  W* weight;
  const S* gradient;
  S* state[kMaxStates];
};

struct SgdRule {
  template <class W, class S>
  RECIS_INLINE void Apply(const Row<W, S>& row, int64_t at, int lanes, const Scalars<S>& p,
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
  RECIS_INLINE void Apply(const Row<W, S>& row, int64_t at, int lanes, const Scalars<S>& p,
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
  RECIS_INLINE void Apply(const Row<W, S>& row, int64_t at, int lanes, const Scalars<S>& p,
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
    const Row<W, S> row(args, i);
    int64_t at = 0;
    for (; at + kWidth <= args.dim; at += kWidth) {
      Rule::template Apply<W, S>(row, at, kWidth, p, flags);
    }
    if (at < args.dim) {
      Rule::template Apply<W, S>(row, at, static_cast<int>(args.dim - at), p, flags);
    }
  }
}

// One state per row: the mean of the squared gradient. Summed in kLanes strands and then
// folded in halves, whatever the registers hold.
template <class W, class S>
void UpdateRowWiseAdagrad(const UpdateArgs& args) {
  constexpr int kWidth = kLanes<S>;
  const Scalars<S> p(*args.params);
  for (int64_t i = 0; i < args.n; ++i) {
    const Row<W, S> row(args, i);
    Vector<S> squares{};
    for (int64_t at = 0; at < args.dim; at += kWidth) {
      const int lanes = static_cast<int>(args.dim - at < kWidth ? args.dim - at : kWidth);
      const Vector<S> g = Effective<S>(Load<S>(row.gradient + at, lanes),
                                       Load<S>(row.weight + at, lanes), p);
      squares = squares + g * g;
    }
    S strands[kWidth];
    __builtin_memcpy(strands, &squares, 64);
    for (int half = kWidth / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) strands[lane] += strands[lane + half];
    }
    const S sum = *row.state[0] + strands[0] / static_cast<S>(args.dim);
    *row.state[0] = sum;
    const Vector<S> sums = Vector<S>{} + sum;
    const Vector<S> rate = p.step_size / (Sqrt(sums) + p.eps);
    for (int64_t at = 0; at < args.dim; at += kWidth) {
      const int lanes = static_cast<int>(args.dim - at < kWidth ? args.dim - at : kWidth);
      const Vector<S> w = Load<S>(row.weight + at, lanes);
      const Vector<S> g = Effective<S>(Load<S>(row.gradient + at, lanes), w, p);
      Store<S>(w - rate * g, row.weight + at, lanes);
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

void Update(const UpdateArgs& args) {
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

extern const Kernels RECIS_KERNELS = {RECIS_KERNELS_NAME, Gather, SegmentSum, Draw, Update};

}  // namespace recis
