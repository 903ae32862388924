#include "cold/versions.h"

#include "base/testing.h"

namespace recis {
namespace {

TEST(AValueIsThatOfTheNewestVersionNotAbove) {
  Versions versions;
  EXPECT_EQ(versions.At(9), "");
  versions.Put(3, "three", 0);
  versions.Put(5, "five", 0);
  EXPECT_EQ(versions.At(2), "");
  EXPECT_EQ(versions.At(3), "three");
  EXPECT_EQ(versions.At(4), "three");
  EXPECT_EQ(versions.At(9), "five");
}

TEST(BothEpochsAreThereWhileTheNextIsWritten) {
  Versions versions;
  for (uint64_t epoch = 1; epoch <= 9; ++epoch) {
    versions.Put(epoch, std::to_string(epoch), epoch < 3 ? 0 : epoch - 2);
    if (epoch < 3) continue;
    EXPECT_EQ(versions.At(epoch - 2), std::to_string(epoch - 2));
    EXPECT_EQ(versions.At(epoch - 1), std::to_string(epoch - 1));
    EXPECT_EQ(versions.At(epoch - 3), "");
  }
  Versions seldom;
  seldom.Put(1, "old", 0);
  seldom.Put(8, "new", 6);
  EXPECT_EQ(seldom.At(6), "old");
}

TEST(APutOfTheSameEpochReplaces) {
  Versions versions;
  versions.Put(3, "first", 1);
  versions.Put(3, "second", 1);
  EXPECT_EQ(versions.At(3), "second");
  EXPECT(versions.RevertTo(2));
  EXPECT_EQ(versions.At(9), "");
}

TEST(ARevertForgetsWhatIsNewer) {
  Versions versions;
  versions.Put(3, "three", 0);
  versions.Put(5, "five", 0);
  EXPECT(!versions.RevertTo(5));
  EXPECT(versions.RevertTo(4));
  EXPECT_EQ(versions.At(9), "three");
}

TEST(EmptyCountsOnlyFromTheOldestEpochOn) {
  Versions versions;
  EXPECT(versions.EmptyFrom(1));
  versions.Put(3, "three", 0);
  versions.Put(5, "", 0);
  EXPECT(!versions.EmptyFrom(3));
  EXPECT(!versions.EmptyFrom(4));
  EXPECT(versions.EmptyFrom(5));
}

TEST(WhatIsStoredIsReadBackAndEveryFlippedBitIsNoticed) {
  Versions versions;
  versions.Put(3, "three", 0);
  versions.Put(5, "", 0);
  versions.Put(6, "six", 0);
  std::string stored = versions.Serialize();
  const auto parsed = Versions::Parse(stored);
  EXPECT(parsed.has_value());
  for (uint64_t epoch = 0; epoch < 8; ++epoch) EXPECT_EQ(parsed->At(epoch), versions.At(epoch));
  for (size_t at = 0; at < stored.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      stored[at] ^= static_cast<char>(1 << bit);
      EXPECT(!Versions::Parse(stored), at, bit);
      stored[at] ^= static_cast<char>(1 << bit);
    }
    EXPECT(!Versions::Parse(std::string_view(stored).substr(0, at)), at);
  }
}

}  // namespace
}  // namespace recis
