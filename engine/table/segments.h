// Sums of segments by all threads of the pool.
//
// Threads: by one at a time on the same sums; the pool's write apart.
#pragma once

#include <cstdint>

#include "device/kernels.h"

namespace recis {

// Sums all `count` segments. None is split, so the sums do not depend on the thread count.
void SumInParallel(const SegmentSumArgs& args, int64_t count);

}  // namespace recis
