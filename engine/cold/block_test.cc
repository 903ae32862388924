#include "cold/block.h"

#include <cstring>
#include <vector>

#include "base/testing.h"
#include "cold/log_testing.h"

namespace recis {
namespace {

using testing::BlockOf;
using testing::RecordOf;

constexpr size_t kRecordSizes[] = {16, 48, 384, 768, 1536, 1552, 8192, 70000};

TEST(AValueFillsPagesOfLmdbExactly) {
  for (const size_t bytes : kRecordSizes) {
    const int64_t rows = Block::RowsFor(bytes, Block::ValueBytesFor(bytes));
    EXPECT_LE(1, rows, bytes);
    const auto full = BlockOf(1, 0, static_cast<uint32_t>(rows), 1, 7, bytes);
    EXPECT(full->full());
    EXPECT_EQ((full->value_bytes() + 16) % 4096, 0u, bytes);
    if (rows > 1) EXPECT_LE(full->value_bytes(), Block::ValueBytesFor(bytes), bytes);
  }
  EXPECT_EQ(Block::ValueBytesFor(1536), 16368u);
  EXPECT_EQ(Block::ValueBytesFor(1552), 65520u);
}

TEST(AShortBlockTakesFewerPages) {
  Block block(7, 768, Block::RowsFor(768, Block::ValueBytesFor(768)));
  block.Add(5, 6, RecordOf(5, 1, 768).data());
  block.Close(1);
  EXPECT_EQ(block.value_bytes(), 4080u);
}

TEST(EntriesAreReadBack) {
  const auto block = BlockOf(9, 100, 20, 3);
  EXPECT_EQ(block->rows(), 20u);
  for (uint32_t i = 0; i < 20; ++i) {
    EXPECT_EQ(block->id(i), 100 + i);
    EXPECT_EQ(block->row(i), 100 + i);
    EXPECT_EQ(std::memcmp(block->record(i), RecordOf(100 + i, 3).data(), testing::kRecordBytes), 0);
  }
}

bool HeaderIsSound(const std::byte* value) {
  BlockHeader header;
  std::memcpy(&header, value, sizeof(header));
  return header.checksum == header.Checksum();
}

bool EntryIsSound(const std::byte* value, Sequence sequence, uint32_t position) {
  const std::byte* entry = value + Block::OffsetOf(position, testing::kRecordBytes);
  EntryHeader header;
  std::memcpy(&header, entry, sizeof(header));
  return header.checksum ==
         Block::Checksum(header, entry + sizeof(header), testing::kRecordBytes, sequence, position);
}

TEST(EveryFlippedBitIsNoticed) {
  const auto block = BlockOf(9, 100, 3, 3);
  std::vector<std::byte> value(block->value(), block->value() + block->value_bytes());
  const size_t used = Block::OffsetOf(3, testing::kRecordBytes);
  for (size_t at = 0; at < used; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      value[at] ^= static_cast<std::byte>(1 << bit);
      const bool sound = HeaderIsSound(value.data()) && EntryIsSound(value.data(), 9, 0) &&
                         EntryIsSound(value.data(), 9, 1) && EntryIsSound(value.data(), 9, 2);
      EXPECT(!sound, at, bit);
      value[at] ^= static_cast<std::byte>(1 << bit);
    }
  }
  for (size_t at = used; at < value.size(); ++at) EXPECT(value[at] == std::byte{0}, at);
}

TEST(AnEntryAtAnotherPlaceIsNoticed) {
  const auto block = BlockOf(9, 100, 3, 3);
  EXPECT(EntryIsSound(block->value(), 9, 1));
  EXPECT(!EntryIsSound(block->value(), 8, 1));
  std::vector<std::byte> value(block->value(), block->value() + block->value_bytes());
  const size_t stride = sizeof(EntryHeader) + testing::kRecordBytes;
  std::memcpy(value.data() + Block::OffsetOf(1, testing::kRecordBytes),
              value.data() + Block::OffsetOf(0, testing::kRecordBytes), stride);
  EXPECT(!EntryIsSound(value.data(), 9, 1));
}

}  // namespace
}  // namespace recis
