#include "table/segments.h"

#include "base/thread_pool.h"

namespace recis {
namespace {
constexpr int64_t kGrain = 4096;  // positions and segments below which threads do not pay
}

void SumInParallel(const SegmentSumArgs& args, int64_t count) {
  // Cut by positions, not by segments alone: a few ids hold most of a skewed batch.
  const auto work_before = [&](int64_t segment) { return args.offsets[segment] + segment; };
  const auto segment_at = [&](int64_t work) {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (work_before(middle) < work) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  ParallelFor(work_before(count), kGrain, [&](int64_t begin, int64_t end) {
    ActiveKernels().segment_sum(args, segment_at(begin), segment_at(end));
  });
}

}  // namespace recis
