#include "store/clock.h"

#include <algorithm>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

Clock Used(Frame count) {
  Clock clock;
  clock.Resize(count);
  for (Frame frame = 0; frame < count; ++frame) clock.Use(frame);
  return clock;
}

TEST(ATouchedFrameOutlivesOneThatWasNot) {
  Clock clock = Used(3);
  clock.Touch(0);
  clock.Touch(2);
  EXPECT_EQ(*clock.Victim(), 1u);
}

TEST(FramesAreTakenRoundByRound) {
  Clock clock = Used(3);
  std::vector<Frame> taken;
  for (int i = 0; i < 3; ++i) {
    taken.push_back(*clock.Victim());
    clock.Free(taken.back());
  }
  EXPECT(taken == std::vector<Frame>({0, 1, 2}));
}

TEST(PinnedAndUnusedFramesAreNeverTaken) {
  Clock clock = Used(4);
  clock.Pin(0);
  clock.Free(1);
  clock.Pin(3);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(*clock.Victim(), 2u);
  clock.Pin(2);
  EXPECT(!clock.Victim().has_value());
}

TEST(UnpinningKeepsTheHeat) {
  Clock clock = Used(2);
  clock.Touch(0);
  clock.Pin(0);
  clock.Unpin(0);
  EXPECT(!clock.pinned(0));
  EXPECT_EQ(*clock.Victim(), 1u);
}

TEST(HeatHasALimitSoThatWhatWasHotOnceCools) {
  Clock clock = Used(2);
  for (int i = 0; i < 1000; ++i) clock.Touch(0);
  clock.Free(1);
  clock.Use(1);
  std::vector<Frame> taken;
  for (int i = 0; i < 4; ++i) taken.push_back(*clock.Victim());
  // Frame 1 stays in use and at 0, so it goes each time until frame 0 has cooled down too.
  EXPECT_EQ(std::count(taken.begin(), taken.end(), 0u), 1);
}

TEST(ShrinkingForgetsTheLastFrames) {
  Clock clock = Used(8);
  for (int i = 0; i < 6; ++i) (void)clock.Victim();
  clock.Resize(2);
  EXPECT_EQ(clock.size(), 2u);
  for (int i = 0; i < 10; ++i) EXPECT_LT(*clock.Victim(), 2u);
}

}  // namespace
}  // namespace recis
