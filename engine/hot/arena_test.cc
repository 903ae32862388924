#include "hot/arena.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

constexpr int64_t kBlockSizes[] = {1, 5, 7, 1024, 1 << 19};

TEST(ABlockIsContiguousWhateverItsSize) {
  for (const int64_t block_rows : kBlockSizes) {
    Arena arena(48, block_rows);
    EXPECT(arena.Reserve(200000).ok());
    EXPECT_LE(200000, arena.reserved_rows());
    for (int64_t row = 0; row < arena.reserved_rows(); ++row) {
      const int64_t place = row % block_rows;
      EXPECT_EQ(arena.At(static_cast<Row>(row)),
                arena.At(static_cast<Row>(row - place)) + place * 48, block_rows, row);
    }
  }
}

TEST(RecordsDoNotOverlapAndStayWithinTheArena) {
  for (const int64_t block_rows : kBlockSizes) {
    Arena arena(64, block_rows);
    EXPECT(arena.Reserve(140000).ok());
    std::vector<std::byte*> places;
    for (int64_t row = 0; row < arena.reserved_rows(); ++row) {
      places.push_back(arena.At(static_cast<Row>(row)));
      std::memset(places.back(), 0xff, 64);
    }
    std::sort(places.begin(), places.end());
    for (size_t i = 1; i < places.size(); ++i) EXPECT_LE(64, places[i] - places[i - 1]);
    EXPECT_LE(places.size() * 64, arena.bytes());
  }
}

TEST(RecordsStayWhereTheyAreWhileTheArenaGrows) {
  Arena arena(1 << 12, 5);
  EXPECT(arena.Reserve(1).ok());
  std::memset(arena.At(4), 0x5a, 1 << 12);
  std::byte* const place = arena.At(4);
  EXPECT(arena.Reserve(20000).ok());
  EXPECT_EQ(arena.At(4), place);
  EXPECT_EQ(static_cast<int>(place[4095]), 0x5a);
  const int64_t reserved = arena.reserved_rows();
  EXPECT(arena.Reserve(1).ok());  // never shrinks
  EXPECT_EQ(arena.reserved_rows(), reserved);
}

TEST(FreshRecordsAreZeros) {
  Arena arena(64, 7);
  EXPECT(arena.Reserve(100000).ok());
  for (Row row = 0; row < 100000; ++row) {
    const std::byte* record = arena.At(row);
    EXPECT(std::all_of(record, record + 64, [](std::byte b) { return b == std::byte{0}; }), row);
  }
}

TEST(RecordsLargerThanASlabHaveOneEach) {
  Arena arena(5 << 20, 1);
  EXPECT(arena.Reserve(5).ok());
  for (Row row = 0; row < 5; ++row) arena.At(row)[0] = arena.At(row)[(5 << 20) - 1] = std::byte{1};
  EXPECT_LE(5, arena.reserved_rows());
}

TEST(ASlabHandedOutOutlivesTheArena) {
  auto arena = std::make_unique<Arena>(64, 5);
  EXPECT(arena->Reserve(200000).ok());
  const Row row = arena->slab_rows() + 3;
  std::byte* const record = arena->At(row);
  std::memset(record, 0x5a, 64);
  const std::shared_ptr<const Slab> slab = arena->SlabOf(row);
  arena->ReleaseSlab(1);
  arena.reset();
  EXPECT_EQ(static_cast<int>(record[63]), 0x5a);
  EXPECT_EQ(record - slab->data(), 3 * 64);
}

TEST(AFailedReserveKeepsWhatThereIs) {
  Arena arena(1 << 30, int64_t{1} << 30);  // one block is 2^60 bytes
  EXPECT(arena.Reserve(1).code() == Code::kOutOfMemory);
  EXPECT_EQ(arena.reserved_rows(), 0);
  EXPECT(arena.Reserve(0).ok());
}

}  // namespace
}  // namespace recis
