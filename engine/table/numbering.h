// Numbers distinct ids 0, 1, 2, ... in the order they are first seen.
//
// It is what deduplicates a batch, and what finds the pending gradient of a row. A small
// open-addressing table of (tag, number) beside the array of ids: for a batch it stays in
// the processor's cache.
//
// Threads: owned by one at a time.
#pragma once

#include <cstdint>

#include "base/hash.h"
#include "device/memory.h"

namespace recis {

class Numbering {
 public:
  // `expected` distinct ids fit without growing.
  explicit Numbering(int64_t expected = 0) { Resize(expected); }

  // The number of `id`, a new one if it was not seen before.
  uint32_t Number(int64_t id) {
    if (size_ == capacity_) [[unlikely]]
      Resize(2 * capacity_);
    uint64_t& entry = Probe(id);
    if (entry == 0) {
      entry = (MixId(id) & kTagMask) | static_cast<uint64_t>(size_ + 1);
      ids_.as<int64_t>()[size_++] = id;
    }
    return static_cast<uint32_t>(entry) - 1;
  }

  // The number of `id`, or kUnseen.
  static constexpr uint32_t kUnseen = 0xffffffffu;
  uint32_t Find(int64_t id) const {
    return capacity_ == 0 ? kUnseen : static_cast<uint32_t>(Probe(id)) - 1;
  }

  int64_t size() const { return size_; }
  const int64_t* ids() const { return ids_.as<int64_t>(); }  // (size), by number
  // Hands the array of ids over and leaves this empty.
  Buffer TakeIds();

 private:
  // An entry is the upper half of the hash and number + 1; 0 is an unused place.
  static constexpr uint64_t kTagMask = 0xffffffff00000000u;

  // The place of `id`, or the unused place where it would go.
  uint64_t& Probe(int64_t id) const {
    const uint64_t hash = MixId(id);
    uint64_t* places = places_.as<uint64_t>();
    for (uint64_t at = hash & place_mask_;; at = (at + 1) & place_mask_) {
      if (places[at] == 0) return places[at];
      if ((places[at] ^ hash) & kTagMask) continue;
      if (ids()[static_cast<uint32_t>(places[at]) - 1] == id) return places[at];
    }
  }
  void Resize(int64_t capacity);

  int64_t size_ = 0;
  int64_t capacity_ = 0;  // half of the places
  uint64_t place_mask_ = 0;
  Buffer places_;
  Buffer ids_;
};

}  // namespace recis
