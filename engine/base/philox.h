// Philox 4x32-10, a counter-based random generator: the same counter and key give the
// same four words on every machine, in any order.
//
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace recis {

// Draws for `kLanes` counters at once, (first + lane, stream, id low, id high), keyed by
// `seed`; a fixed lane count lets the compiler use whatever vectors there are.
template <int kLanes>
RECIS_HOST_DEVICE static inline void PhiloxLanes(uint64_t seed, int64_t id, uint32_t stream,
                                                 uint32_t first, uint32_t (&out)[4][kLanes]) {
  constexpr uint32_t kMul0 = 0xd2511f53u, kMul1 = 0xcd9e8d57u;
  constexpr uint32_t kWeyl0 = 0x9e3779b9u, kWeyl1 = 0xbb67ae85u;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const uint64_t word = static_cast<uint64_t>(id);
  for (int i = 0; i < kLanes; ++i) {
    out[0][i] = first + static_cast<uint32_t>(i);
    out[1][i] = stream;
    out[2][i] = static_cast<uint32_t>(word);
    out[3][i] = static_cast<uint32_t>(word >> 32);
  }
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = static_cast<uint64_t>(kMul0) * out[0][i];
      const uint64_t p1 = static_cast<uint64_t>(kMul1) * out[2][i];
      const uint32_t x1 = out[1][i], x3 = out[3][i];
      out[0][i] = static_cast<uint32_t>(p1 >> 32) ^ x1 ^ key0;
      out[1][i] = static_cast<uint32_t>(p1);
      out[2][i] = static_cast<uint32_t>(p0 >> 32) ^ x3 ^ key1;
      out[3][i] = static_cast<uint32_t>(p0);
    }
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
}

}  // namespace recis
