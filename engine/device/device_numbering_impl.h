// Numbers distinct ids in order of first occurrence. See device_kernels.h.
//
// A place of an open-addressing table holds a position of its id, the first one in the end. So an
// entry is 32 bits whatever the ids are, and what it stands for was there before the pass.
#pragma once

#include "base/hash.h"
#include "device/atomic.h"
#include "device/device_kernels.h"

namespace recis {
namespace {

// inverse[position] becomes the place of its id.
struct ClaimPlaces {
  NumberingArgs args;
  uint32_t mask;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    const auto position = static_cast<uint32_t>(item);
    const int64_t id = args.ids[position];
    uint32_t at = static_cast<uint32_t>(MixId(id)) & mask;
    uint32_t seen;
    for (;; at = (at + 1) & mask) {
      seen = AtomicLoad(&args.places[at]);
      if (seen == NumberingArgs::kNoPosition) {
        seen = AtomicCompareExchange(&args.places[at], NumberingArgs::kNoPosition, position);
      }
      // Who stands here may change, but not to another id.
      if (seen == NumberingArgs::kNoPosition || args.ids[seen] == id) break;
    }
    // Most find an earlier one: then there is nothing to write, and nobody to wait for.
    if (seen != NumberingArgs::kNoPosition && seen > position)
      AtomicMin(&args.places[at], position);
    args.inverse[position] = at;
  }
};

// numbers[position] becomes 1 where an id occurs first.
struct MarkFirst {
  NumberingArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    args.numbers[item] =
        item < args.n && args.places[args.inverse[item]] == static_cast<uint32_t>(item) ? 1 : 0;
  }
};

// REQUIRES: numbers are summed.
struct TakeNumbers {
  NumberingArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    const uint32_t first = args.places[args.inverse[item]];
    const uint32_t number = args.numbers[first];
    if (first == static_cast<uint32_t>(item)) args.distinct_ids[number] = args.ids[item];
    args.inverse[item] = number;
  }
};

}  // namespace
}  // namespace recis
