// Ids made for a hash, for tests that want collisions.
#pragma once

#include <cstdint>

namespace recis::testing {

// The id whose MixId() is `hash`.
inline int64_t UnmixId(uint64_t hash) {
  const auto unshift = [](uint64_t x, int bits) {
    for (int known = bits; known < 64; known *= 2) x ^= x >> known;
    return x;
  };
  hash = unshift(hash, 31) * 0x319642b2d24d8ec3u;  // the inverses of its factors
  hash = unshift(hash, 27) * 0x96de1b173f119089u;
  return static_cast<int64_t>(unshift(hash, 30) - 0x9e3779b97f4a7c15u);
}

}  // namespace recis::testing
