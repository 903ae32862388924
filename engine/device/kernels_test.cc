// Each kernel set against the plain loop it stands for, bit for bit.
#include "device/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/philox.h"
#include "base/testing.h"
#include "device/kernels_testing.h"
#include "device/normal.h"

namespace recis {
namespace {

using testing::Bytes, testing::BytesOf, testing::Narrow, testing::Sets, testing::Wide;

// ---- gather -------------------------------------------------------------------------

TEST(GatherCopiesRowsOfEverySize) {
  constexpr size_t kRows = 9, kSizeMax = 300;
  std::mt19937_64 random(1);
  Bytes pool(5000);
  for (std::byte& byte : pool) byte = static_cast<std::byte>(random());
  alignas(64) std::byte out[64 + kRows * kSizeMax + 64];
  for (size_t bytes = 1; bytes <= kSizeMax; ++bytes) {
    std::vector<const std::byte*> sources(kRows);
    for (auto& source : sources) source = pool.data() + random() % (pool.size() - bytes);
    sources[2] = sources[8] = nullptr;
    for (const size_t at : {size_t{64}, size_t{61}}) {
      Bytes expected(sizeof(out), std::byte{0xaa});
      for (size_t i = 0; i < kRows; ++i) {
        std::byte* row = expected.data() + at + i * bytes;
        std::memset(row, 0, bytes);
        if (sources[i] != nullptr) std::memcpy(row, sources[i], bytes);
      }
      for (const Kernels* set : Sets()) {
        for (const bool stream : {false, true}) {
          std::memset(out, 0xaa, sizeof(out));
          set->gather(sources.data(), kRows, bytes, out + at, stream);
          EXPECT(Bytes(out, out + sizeof(out)) == expected, set->name, bytes, at, stream);
        }
      }
    }
  }
}

// ---- segment sum --------------------------------------------------------------------

template <class T, class S>
void SumOneByOne(const SegmentSumArgs& args, int64_t begin, int64_t end) {
  const T* values = static_cast<const T*>(args.values);
  const S* weights = static_cast<const S*>(args.weights);
  for (int64_t segment = begin; segment < end; ++segment) {
    const int64_t target = args.targets == nullptr ? segment : args.targets[segment];
    if (target == SegmentSumArgs::kSkip) continue;
    const uint32_t first = args.offsets[segment], last = args.offsets[segment + 1];
    for (int64_t column = 0; column < args.dim; ++column) {
      const auto term = [&](uint32_t k) {
        const S value = Wide(values[args.positions[k] * args.dim + column]);
        return weights == nullptr ? value : value * weights[k];
      };
      S total = 0;
      for (uint32_t begin = first; begin < last; begin += SegmentSumArgs::kRun) {
        S run = term(begin);
        const uint32_t end = std::min<uint32_t>(last, begin + SegmentSumArgs::kRun);
        for (uint32_t k = begin + 1; k < end; ++k) run += term(k);
        total = begin == first ? run : total + run;
      }
      if (first != last) {
        total /= static_cast<S>(args.mean ? args.divisor * (last - first) : args.divisor);
      }
      S& sum = static_cast<S*>(args.sums)[target * args.dim + column];
      const bool fresh = args.fresh == nullptr || args.fresh[segment];
      sum = fresh ? total : sum + total;
    }
  }
}

template <class T, class S>
void CheckSegmentSum(DType dtype, int64_t dim) {
  // One is empty, one as long as a run, and one as long as a few.
  constexpr uint32_t kOffsets[] = {0, 1, 3, 67, 68, 71, 71, 271}, kCount = 271;
  uint32_t positions[kCount];
  for (uint32_t i = 0; i < kCount; ++i) positions[i] = i * 7 % kCount;  // some order
  for (int segment = 0; segment < 7; ++segment) {
    std::sort(positions + kOffsets[segment], positions + kOffsets[segment + 1]);
  }
  constexpr uint32_t kTargets[] = {5, 0, 2, SegmentSumArgs::kSkip, 3, 6, 1};  // 4 is nobody's
  constexpr bool kFresh[] = {true, false, true, false, false, true, true};
  std::mt19937_64 random(static_cast<uint64_t>(dim));
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(kCount * dim));
  for (T& value : values) {
    value = Narrow<T>(std::ldexp(normal(random), static_cast<int>(random() % 9)));
  }
  values[0] = T{};
  std::vector<S> weights(kCount);
  for (S& weight : weights) weight = static_cast<S>(normal(random));
  std::vector<S> sums(static_cast<size_t>(7 * dim));
  for (S& sum : sums) sum = static_cast<S>(normal(random));
  sums[static_cast<size_t>(2 * dim)] = NAN;  // overwritten: its segment is fresh

  for (const bool mean : {false, true}) {
    for (const double divisor : {1.0, 3.0}) {
      SegmentSumArgs args{values.data(), dtype,  dim,  kOffsets, positions,
                          kTargets,      kFresh, mean, divisor,  nullptr};
      for (const int kind : {0, 1, 2, 3}) {
        args.weights = kind % 2 ? weights.data() : nullptr;
        args.targets = kind < 2 ? kTargets : nullptr;
        args.fresh = kind < 2 ? kFresh : nullptr;
        std::vector<S> expected = sums;
        args.sums = expected.data();
        SumOneByOne<T, S>(args, 1, 7);  // the first segment is another thread's
        for (const Kernels* set : Sets()) {
          std::vector<S> got = sums;
          args.sums = got.data();
          set->segment_sum(args, 1, 3);
          set->segment_sum(args, 3, 7);
          EXPECT(BytesOf(got) == BytesOf(expected), set->name, dim, mean, divisor, kind);
        }
      }
    }
  }
}

TEST(SegmentSumAddsEachSegmentInOrder) {
  for (int64_t dim = 1; dim <= 140; dim += dim < 70 ? 1 : 23) {
    CheckSegmentSum<float, float>(DType::kFloat32, dim);
    CheckSegmentSum<double, double>(DType::kFloat64, dim);
    CheckSegmentSum<Half, float>(DType::kFloat16, dim);
    CheckSegmentSum<BFloat16, float>(DType::kBFloat16, dim);
  }
}

// ---- first values -------------------------------------------------------------------

// Element `index` of the row of `id`, as kernels.h defines it.
double DrawOne(const DrawArgs& args, int64_t id, int64_t index) {
  if (args.distribution == Distribution::kConstant) return args.shift;
  uint32_t words[4][1];
  PhiloxLanes<1>(args.seed, id, 0, static_cast<uint32_t>(index / 2), words);
  const int half = static_cast<int>(index % 2);
  const uint64_t word = uint64_t{words[2 * half + 1][0]} << 32 | words[2 * half][0];
  const double uniform = static_cast<double>(word >> 12) * 0x1p-52 + 0x1p-53;
  switch (args.distribution) {
    case Distribution::kNormal:
      return args.shift + args.scale * Quantile(uniform);
    case Distribution::kTruncatedNormal:
      return args.shift + args.scale * Quantile(args.low + (args.high - args.low) * uniform);
    default:
      return args.shift + args.scale * uniform;
  }
}

template <class T>
void CheckDraw(const DrawArgs& args, DType dtype) {
  for (const int64_t id : {int64_t{0}, int64_t{-1}, INT64_MIN, int64_t{0x123456789abcdef}}) {
    for (const int64_t count : {1, 2, 7, 63, 64, 65, 128, 200}) {
      std::vector<T> row(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) row[i] = Narrow<T>(DrawOne(args, id, i));
      Bytes expected = BytesOf(row);
      expected.push_back(std::byte{0xaa});
      for (const Kernels* set : Sets()) {
        Bytes got(expected.size(), std::byte{0xaa});
        set->draw(args, id, dtype, count, got.data());
        EXPECT(got == expected, set->name, static_cast<int>(dtype),
               static_cast<int>(args.distribution), count);
      }
    }
  }
}

TEST(DrawsDependOnSeedIdAndElementAlone) {
  for (int kind = 0; kind < 4; ++kind) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{0xfedcba9876543210}}) {
      const DrawArgs args{static_cast<Distribution>(kind), -3.25, 11.5, 0.02275, 0.97725, seed};
      CheckDraw<float>(args, DType::kFloat32);
      CheckDraw<double>(args, DType::kFloat64);
      CheckDraw<Half>(args, DType::kFloat16);
      CheckDraw<BFloat16>(args, DType::kBFloat16);
      CheckDraw<int8_t>(args, DType::kInt8);
      CheckDraw<int32_t>(args, DType::kInt32);
      CheckDraw<int64_t>(args, DType::kInt64);
    }
  }
}

TEST(TruncatedDrawsStayWithinTheirBounds) {
  DrawArgs args{Distribution::kTruncatedNormal, 0, 1, 0, 0, 7};
  args.low = NormalProbability(-0.5);
  args.high = NormalProbability(1);
  std::vector<float> row(1 << 16);
  ActiveKernels().draw(args, 1, DType::kFloat32, 1 << 16, reinterpret_cast<std::byte*>(row.data()));
  const auto [least, most] = std::minmax_element(row.begin(), row.end());
  EXPECT_LE(-0.5f, *least);
  EXPECT_LT(*least, -0.4999f);
  EXPECT_LE(*most, 1.0f);
  EXPECT_LT(0.9999f, *most);
}

}  // namespace
}  // namespace recis
