#include "store/catalog.h"

#include <cstddef>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

constexpr size_t kRecordBytes = 48;
constexpr uint32_t kTable = 7;

// A closed block of `rows` live entries, rows from `first`.
struct Closed {
  BlockNumber number;
  std::vector<Location> entries;
};
Closed Fill(Catalog& catalog, Sequence sequence, int rows, Row first = 0) {
  Closed closed{catalog.Open(kTable, kRecordBytes), {}};
  const std::vector<std::byte> record(kRecordBytes, std::byte{1});
  for (int i = 0; i < rows; ++i) {
    const Row row = first + static_cast<Row>(i);
    closed.entries.push_back(catalog.Add(closed.number, -int64_t{row}, row, record.data()));
  }
  catalog.Close(closed.number, sequence);
  return closed;
}

Changes Commit(Catalog& catalog) {
  Changes changes;
  catalog.Collect(&changes);
  catalog.Committed();
  return changes;
}

TEST(AnEntryIsLiveUntilItIsKilled) {
  Catalog catalog;
  const Closed block = Fill(catalog, 1, 10);
  EXPECT_EQ(catalog.live_rows(), 10);
  catalog.Kill(block.entries[9]);
  EXPECT(!catalog.Live(block.number, 9));
  EXPECT(catalog.Live(block.number, 8));
  EXPECT_EQ(catalog.live_rows(), 9);
  EXPECT_EQ(catalog.live_bytes(), static_cast<int64_t>(9 * (sizeof(EntryHeader) + kRecordBytes)));
}

TEST(OnlyWhatChangedIsCollected) {
  Catalog catalog;
  const Closed one = Fill(catalog, 1, 10), two = Fill(catalog, 2, 10);
  EXPECT_EQ(Commit(catalog).liveness.size(), 2u);
  EXPECT_EQ(Commit(catalog).liveness.size(), 0u);
  catalog.Kill(two.entries[0]);
  catalog.Kill(two.entries[1]);
  const Changes changes = Commit(catalog);
  EXPECT_EQ(changes.liveness.size(), 1u);
  EXPECT_EQ(changes.liveness[0].sequence, Sequence{2});
  EXPECT_EQ(static_cast<int>(changes.liveness[0].live[0]), static_cast<int>(char(0xfc)));
  EXPECT(one.number != two.number);
}

TEST(ABlockThatNoEpochKnowsGoesAtOnce) {
  Catalog catalog;
  const Closed block = Fill(catalog, 5, 2);
  catalog.Kill(block.entries[0]);
  EXPECT(catalog.TakeDiscards().empty());
  catalog.Kill(block.entries[1]);
  EXPECT(catalog.TakeDiscards() == std::vector<Sequence>({5}));
  EXPECT(catalog.TakeDiscards().empty());
  EXPECT_EQ(catalog.block_bytes(), 0);
  EXPECT_EQ(catalog.blocks(), 0);
  EXPECT_EQ(Commit(catalog).liveness.size(), 0u);
}

TEST(ABlockThatAnEpochKnowsGoesWhenBothKnowItAsDead) {
  Catalog catalog;
  const Closed block = Fill(catalog, 1, 1);
  Commit(catalog);
  catalog.Kill(block.entries[0]);
  EXPECT(catalog.TakeDiscards().empty());
  EXPECT_EQ(catalog.block_bytes(), 0);
  EXPECT_LT(0, catalog.dead_bytes());
  EXPECT(Commit(catalog).dead.empty());  // the epoch before still has it live
  EXPECT(Commit(catalog).dead == std::vector<Sequence>({1}));
  EXPECT_EQ(catalog.dead_bytes(), 0);
  EXPECT(Commit(catalog).dead.empty());
}

TEST(AFailedCommitDeletesNothingThatTheLastEpochNeeds) {
  Catalog catalog;
  const Closed block = Fill(catalog, 1, 1);
  Commit(catalog);
  catalog.Kill(block.entries[0]);
  Changes failed;
  catalog.Collect(&failed);  // and no Committed()
  EXPECT(failed.dead.empty());
  Changes again;
  catalog.Collect(&again);
  EXPECT(again.dead.empty());
  catalog.Committed();
  EXPECT(Commit(catalog).dead == std::vector<Sequence>({1}));
}

TEST(ANumberIsReusedWithoutMixingUpItsBlocks) {
  Catalog catalog;
  const Closed first = Fill(catalog, 1, 1);
  catalog.Kill(first.entries[0]);
  const BlockNumber again = catalog.Open(kTable, kRecordBytes);
  EXPECT_EQ(again, first.number);
  const std::vector<std::byte> record(kRecordBytes);
  catalog.Add(again, 1, 1, record.data());
  catalog.Durable(2);  // of the first: the second is still being filled
  EXPECT(catalog.at(again).block != nullptr);
  catalog.Close(again, 2);
  catalog.Durable(2);
  EXPECT(catalog.at(again).block != nullptr);
  catalog.Durable(3);
  EXPECT(catalog.at(again).block == nullptr);
}

TEST(RecoveryCountsWhatIsLive) {
  Catalog catalog;
  catalog.Recover({3, kTable, 10, kRecordBytes, std::string("\x0f\x02", 2)});
  EXPECT_EQ(catalog.live_rows(), 5);
  EXPECT(catalog.Live(0, 3));
  EXPECT(!catalog.Live(0, 4));
  EXPECT(catalog.Live(0, 9));
  // Dead in the epoch that was opened: the next one may delete it.
  catalog.Recover({4, kTable, 10, kRecordBytes, std::string("\0\0", 2)});
  EXPECT(Commit(catalog).dead == std::vector<Sequence>({4}));
  // Once: its number may be another block's by then.
  Fill(catalog, 5, 10);
  EXPECT(Commit(catalog).dead.empty());
}

TEST(TheDeadestBlocksAreCleanedFirst) {
  Catalog catalog;
  std::vector<Closed> blocks;
  for (Sequence sequence = 1; sequence <= 4; ++sequence) {
    blocks.push_back(Fill(catalog, sequence, 200, static_cast<Row>(sequence * 200)));
  }
  EXPECT(!catalog.Wasteful(1.5, 0));
  for (int i = 0; i < 190; ++i) catalog.Kill(blocks[2].entries[i]);
  for (int i = 0; i < 150; ++i) catalog.Kill(blocks[0].entries[i]);
  EXPECT(catalog.Wasteful(1.5, 0));
  const auto none = [](uint32_t) { return false; };
  EXPECT(catalog.ToClean(1.6, 0, none).empty());  // none is durable
  catalog.Durable(5);
  EXPECT(catalog.ToClean(1.6, 0, none) == std::vector<BlockNumber>({blocks[2].number}));
  EXPECT(catalog.ToClean(1.3, 0, none) ==
         std::vector<BlockNumber>({blocks[2].number, blocks[0].number}));
  EXPECT(catalog.ToClean(1.3, 0, [](uint32_t table) { return table == kTable; }).empty());
}

}  // namespace
}  // namespace recis
