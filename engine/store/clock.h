// Which hot frames are the coldest: second chance with a small frequency.
//
// A frame in use has a heat of 0 to kMaxHeat, raised by each batch that uses it. A hand goes
// round, takes the frames of heat 0 and lowers the others. No I/O, no clock time: victims
// follow from the calls alone.
//
// Threads: Touch() from any on distinct frames; the rest by one thread at a time.
// Invariants:
//  (1) A frame that is unused or pinned is never a victim.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "store/location.h"

namespace recis {

class Clock {
 public:
  static constexpr uint8_t kMaxHeat = 3;

  // Frames [0, count) exist; new ones are unused.
  void Resize(Frame count);
  Frame size() const { return static_cast<Frame>(heat_.size()); }

  void Use(Frame frame) { heat_[frame] = 0; }
  void Free(Frame frame) { heat_[frame] = kUnused; }
  bool used(Frame frame) const { return heat_[frame] != kUnused; }
  void Touch(Frame frame) {
    const uint8_t heat = heat_[frame];
    if ((heat & ~kPinned) < kMaxHeat) heat_[frame] = static_cast<uint8_t>(heat + 1);
  }
  bool pinned(Frame frame) const { return heat_[frame] & kPinned; }
  void Pin(Frame frame) { heat_[frame] |= kPinned; }
  void Unpin(Frame frame) { heat_[frame] &= static_cast<uint8_t>(~kPinned); }

  // The coldest frame, as far as the hand can tell. None if all are pinned or unused.
  std::optional<Frame> Victim();

 private:
  static constexpr uint8_t kPinned = 0x40;
  static constexpr uint8_t kUnused = 0x80;

  std::vector<uint8_t> heat_;
  size_t hand_ = 0;
};

}  // namespace recis
