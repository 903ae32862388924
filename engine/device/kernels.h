// The loops over rows that do the work: gather, segment sum, first values, optimizers.
//
// One source (kernels_impl.h) is compiled for each instruction set and chosen at run
// time. Every kernel is a fixed sequence of IEEE operations on each element, so all
// choices give the same bits.
//
// Threads: kernels touch only what their arguments name; callers keep ranges apart.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace recis {

// How the first values of a row are drawn. A draw depends on (seed, id, element) only.
enum class Distribution : uint8_t { kConstant, kUniform, kNormal, kTruncatedNormal };

struct DrawArgs {
  Distribution distribution = Distribution::kConstant;
  double shift = 0;  // the constant, lower bound or mean
  double scale = 1;  // upper minus lower bound, or standard deviation
  double low = 0;    // truncated normal: lower and upper bound as probabilities
  double high = 1;
  uint64_t seed = 0;
  bool operator==(const DrawArgs&) const = default;
};

enum class Rule : uint8_t { kSgd, kAdagrad, kRowWiseAdagrad, kAdam };

// Hyper-parameters of one optimizer step. Those a rule does not name are not read.
struct RuleParams {
  Rule rule = Rule::kSgd;
  double step_size = 0;     // learning rate, bias corrections included
  double weight_decay = 0;  // added to the gradient, times the weight
  double decay = 1;         // multiplies the weight before the update (Adam)
  double momentum = 0;      // Sgd
  double beta1 = 0, beta2 = 0;
  double eps = 0;
  double divisor = 1;  // divides the gradient: steps it was accumulated over
  bool amsgrad = false;
  bool nesterov = false;
};

inline constexpr int kMaxStates = 3;

// Where a rule finds its operands in a record, in bytes.
struct RecordPlaces {
  size_t weight;
  size_t states[kMaxStates];  // of accumulator type; as many as the rule uses
};

struct UpdateArgs {
  std::byte* const* records;     // (n)
  const void* const* gradients;  // (n) to (dim) accumulators
  int64_t n;
  int64_t dim;
  DType dtype;  // of the weight
  RecordPlaces places;
  const RuleParams* params;
};

struct SegmentSumArgs {
  const void* values;  // (m, dim) of `dtype`
  DType dtype;
  int64_t dim;
  const uint32_t* offsets;    // (segments + 1) into positions
  const uint32_t* positions;  // rows of `values`, ascending in each segment
  const uint32_t* targets;    // (segments) row of `sums`, or kSkip; null: their own
  const bool* fresh;          // (segments) assign rather than add; null: all of them
  bool mean;                  // divide each sum by its segment's length
  double divisor;             // and by this
  void* sums;                 // (rows, dim) accumulators
  // (positions) accumulators that each position's row is multiplied by; null: ones.
  const void* weights = nullptr;
  static constexpr uint32_t kSkip = 0xffffffffu;
  // A segment is summed in runs of so many positions, and then run by run. So devices can sum the
  // runs of a hot id side by side, and have the same bits.
  static constexpr int64_t kRun = 64;
};

struct Kernels {
  const char* name;
  // Copies `bytes` from each source to consecutive rows of out; null reads as zeros.
  // `stream` bypasses the processor's cache where out and bytes allow it.
  void (*gather)(const std::byte* const* sources, int64_t n, size_t bytes, std::byte* out,
                 bool stream);
  // Sums the segments [begin, end), each by runs in the order of its positions; empty ones are
  // zeros.
  void (*segment_sum)(const SegmentSumArgs& args, int64_t begin, int64_t end);
  // Writes the first values of id's row: `count` elements of `dtype`.
  void (*draw)(const DrawArgs& args, int64_t id, DType dtype, int64_t count, std::byte* out);
  void (*update)(const UpdateArgs& args);
};

extern const Kernels kBaselineKernels;
#if defined(RECIS_X86)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

// One element at a time, as devices do it; for tests alone.
extern const Kernels kOneLaneKernels;

// The fastest kernels this processor runs; RECIS_SIMD=baseline|avx2|avx512 in the
// environment asks for a lesser set.
const Kernels& ActiveKernels();
// Every set this processor runs, for tests that hold them against each other.
int RunnableKernels(const Kernels* (&out)[3]);

// The inverse of the standard normal distribution, the one `draw` uses.
double NormalQuantile(double probability);
// The standard normal distribution at z, found by bisection on NormalQuantile so that
// it has the same bits everywhere.
double NormalProbability(double z);

}  // namespace recis
