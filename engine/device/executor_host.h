// Runs device algorithms on the host: an executor, as KernelsOn (device_kernels_impl.h) wants one.
//
// An executor has
//   Run<kLanes>(n, body, stream)  calls body(tile, item) for each item below n, in any order and
//                                 side by side: a pass
//   Scan(values, n, stream)       replaces values (n) by the sums of those before each
//   Sort(keys, values, sorted_keys, sorted_values, bits, n, stream)
//                                 sorts pairs (n) by the low `bits` of the key; equal ones keep
//                                 their order
//   status()                      the first error of what was enqueued since the last call
// What is enqueued on a stream is done in order, and each sees all writes of those before it.
//
// HostExecutor does a tile's lanes in a loop. Items come in shuffled chunks on the thread pool, so
// no algorithm can lean on their order.
//
// Threads: as the thread pool.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "base/thread_pool.h"
#include "base/yield.h"
#include "device/space.h"
#include "device/tile.h"

namespace recis {

class HostExecutor {
 public:
  template <int kLanes, class Body>
  void Run(int64_t n, const Body& body, Stream) {
    constexpr int64_t kChunk = 16;
    const int64_t chunks = (n + kChunk - 1) / kChunk;
    const int64_t step = StepOver(chunks);
    ParallelFor(chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t chunk = i * step % chunks;
        MaybeYield();
        const int64_t last = std::min(n, (chunk + 1) * kChunk);
        for (int64_t item = last - 1; item >= chunk * kChunk; --item) {
          body(LoopTile<kLanes>(), item);
        }
      }
    });
  }

  void Scan(uint32_t* values, int64_t n, Stream) {
    std::exclusive_scan(values, values + n, values, uint32_t{0});
  }

  void Sort(const uint32_t* keys, const uint32_t* values, uint32_t* sorted_keys,
            uint32_t* sorted_values, int bits, int64_t n, Stream) {
    const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << bits) - 1);
    std::vector<uint32_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [keys, mask](uint32_t a, uint32_t b) {
      return (keys[a] & mask) < (keys[b] & mask);
    });
    for (int64_t i = 0; i < n; ++i) {
      sorted_keys[i] = keys[order[i]];
      sorted_values[i] = values[order[i]];
    }
  }

  Status status() { return {}; }

 private:
  // Chunk i * step % chunks is another one for each i. REQUIRES for the product: chunks < 2^31.
  static int64_t StepOver(int64_t chunks) {
    int64_t step = chunks / 2 + chunks / 8 + 1;
    while (std::gcd(step, chunks) > 1) ++step;
    return step;
  }
};

}  // namespace recis
