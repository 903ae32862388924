#include "table/cached_rows.h"

#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

using Frames = std::vector<Frame>;

// Frame i has row 10 * i of id -i.
CachedRows Filled(int64_t capacity, Frame count) {
  CachedRows rows(capacity);
  EXPECT(rows.Reserve(10 * count).ok());
  for (Frame frame = 0; frame < count; ++frame) rows.Add(frame, -int64_t{frame}, 10 * frame);
  return rows;
}

TEST(ARowHasTheFrameItWasGivenUntilItIsRemoved) {
  CachedRows rows = Filled(5, 4);
  EXPECT_EQ(rows.FrameOf(30), 3u);
  EXPECT_EQ(rows.FrameOf(31), CachedRows::kNoFrame);
  EXPECT_EQ(rows.FrameOf(kNoRow), CachedRows::kNoFrame);
  EXPECT_EQ(rows.At(3).id, -3);
  EXPECT_EQ(rows.size(), 4);
  EXPECT_EQ(rows.room(), 1);
  rows.Remove(3);
  EXPECT_EQ(rows.FrameOf(30), CachedRows::kNoFrame);
  EXPECT_EQ(rows.room(), 2);
  rows.Add(3, 7, 35);
  EXPECT_EQ(rows.FrameOf(35), 3u);
  EXPECT_EQ(rows.All(), Frames({0, 1, 2, 3}));
}

TEST(AStepMakesTheRowsWithAPendingGradientDirty) {
  CachedRows rows = Filled(4, 4);
  rows.MarkPending(1);
  rows.MarkPending(2);
  EXPECT_EQ(rows.Dirty(), Frames());
  rows.Remove(2);
  rows.Add(2, 9, 9);
  rows.MarkStepped();
  EXPECT_EQ(rows.Dirty(), Frames({1}));
  rows.MarkClean(1);
  rows.ClearPending();
  rows.MarkStepped();
  EXPECT_EQ(rows.Dirty(), Frames());
}

TEST(TheColdestAreNeitherKeptNorPending) {
  CachedRows rows = Filled(6, 6);
  rows.Touch(0);
  rows.MarkPending(1);
  EXPECT_EQ(rows.Coldest(2, {2}), Frames({3, 4}));
  EXPECT_EQ(rows.Coldest(9, {1, 2}).size(), 4u);  // each once
  EXPECT_EQ(rows.Coldest(9, {2}).size(), 4u);     // the first is still pending
  rows.ClearPending();
  EXPECT_EQ(rows.Coldest(9, {}).size(), 6u);
}

}  // namespace
}  // namespace recis
