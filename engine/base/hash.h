// The mixed hash of an id.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace recis {

// A bijection on 64 bits (the finalizer of SplitMix64), so ids that share low or high
// bits, as sharded and coalesced ids do, still spread over the whole index.
RECIS_HOST_DEVICE static inline uint64_t MixId(int64_t id) {
  uint64_t x = static_cast<uint64_t>(id) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Maps the low 32 bits of `hash` evenly onto [0, n).
RECIS_HOST_DEVICE static inline uint32_t MapToRange(uint64_t hash, uint32_t n) {
  return static_cast<uint32_t>(((hash & 0xffffffffu) * n) >> 32);
}

}  // namespace recis
