#include "store/clock.h"

namespace recis {

void Clock::Resize(Frame count) {
  heat_.resize(count, kUnused);
  if (hand_ >= count) hand_ = 0;
}

std::optional<Frame> Clock::Victim() {
  // After kMaxHeat rounds every frame that may be taken is at 0.
  const size_t most = heat_.size() * (kMaxHeat + 1);
  for (size_t looked = 0; looked < most; ++looked) {
    const size_t frame = hand_;
    hand_ = hand_ + 1 == heat_.size() ? 0 : hand_ + 1;
    uint8_t& heat = heat_[frame];
    if (heat & (kPinned | kUnused)) continue;
    if (heat == 0) return static_cast<Frame>(frame);
    --heat;
  }
  return std::nullopt;
}

}  // namespace recis
