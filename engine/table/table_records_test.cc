// Whole records of a table, out and in again.

#include <algorithm>
#include <cstddef>
#include <vector>

#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

constexpr size_t kRecordBytes = 48;  // embedding and two states: 36 bytes, padded

std::vector<std::byte> ReadRecords(const Table& table, const Ids& rows) {
  std::vector<std::byte> records(rows.size() * kRecordBytes);
  Ok(table.ReadRecords(rows.data(), static_cast<int64_t>(rows.size()), records.data()));
  return records;
}
Status WriteRecords(Table& table, const Ids& rows, const std::vector<std::byte>& records) {
  return table.WriteRecords(rows.data(), static_cast<int64_t>(rows.size()), records.data());
}

TEST(RecordsThatAreWrittenBackAreAsTheyWereRead) {
  for (const int64_t blocks : {1, 3, 1000}) {
    const TemporaryDirectory directory;
    const auto store = Open(directory.path(), BytesOf(blocks));
    for (const auto& table : {Table::Make(Options()).value(), Join(store)}) {
      const auto states = AddStates(*table);
      Workload(5).Run(*table, states, 20);
      const Content before = ContentOf(*table);
      Ids rows = before.rows;
      std::reverse(rows.begin(), rows.end());
      const auto records = ReadRecords(*table, rows);
      Ok(Train(*table, before.ids, states));
      EXPECT(ContentOf(*table).slots != before.slots);
      Ok(WriteRecords(*table, rows, records));
      EXPECT(ContentOf(*table) == before, blocks);
    }
    store->Close();
  }
}

TEST(WritingRecordsReadsNothingAndIsCommitted) {
  const TemporaryDirectory directory;
  Content last;
  {
    const auto store = Open(directory.path(), BytesOf(1));
    const auto table = Join(store);
    const auto states = AddStates(*table);
    Workload(6).Run(*table, states, 20);
    const Content before = ContentOf(*table);
    auto records = ReadRecords(*table, before.rows);
    EXPECT(store->Commit(1, "").ok());
    for (auto& byte : records) byte ^= std::byte{1};
    const int64_t reads = store->Stats().log.reads;
    Ok(WriteRecords(*table, before.rows, records));
    EXPECT_EQ(store->Stats().log.reads, reads);
    last = ContentOf(*table);
    EXPECT(last.slots != before.slots);
    EXPECT(store->Commit(2, "").ok());
    store->Close();
  }
  const auto store = Open(directory.path(), BytesOf(2));
  EXPECT(ContentOf(*Join(store)) == last);
  store->Close();
}

TEST(RecordsOfRowsThatAreNotInUseAreRefused) {
  const auto table = Table::Make(Options()).value();
  AddStates(*table);
  Lookup(*table, {1, 2});
  auto records = ReadRecords(*table, {0, 1});
  const Content before = ContentOf(*table);
  EXPECT(WriteRecords(*table, {0, 7}, records).code() == Code::kOutOfRange);
  const Ids wrong{2};
  EXPECT(table->ReadRecords(wrong.data(), 1, records.data()).code() == Code::kOutOfRange);
  EXPECT(ContentOf(*table) == before);
}

TEST(ACutKeepsWhatWrittenRecordsReplace) {
  const auto table = Table::Make(Options()).value();
  AddStates(*table);
  Lookup(*table, {1, 2, 3});
  Ok(table->Track(true));
  Ids rows(1);
  {
    const auto cut = Value(table->TakeCut(false, 1 << 20));
    std::vector<RowOfId> listed;
    Ok(cut->List(1, 0, 1, &listed));
    const auto gathered = [&] {
      std::vector<Values> slots(3, Values(listed.size() * kDim));
      std::vector<std::byte*> addresses;
      for (Values& slot : slots) addresses.push_back(reinterpret_cast<std::byte*>(slot.data()));
      Ok(cut->Gather(listed.data(), static_cast<int64_t>(listed.size()), addresses));
      return slots;
    };
    const auto before = gathered();
    rows = RowsOf(*table, {2});
    auto record = ReadRecords(*table, rows);
    for (auto& byte : record) byte ^= std::byte{1};
    Ok(WriteRecords(*table, rows, record));
    EXPECT(gathered() == before);
    EXPECT(ReadRecords(*table, rows) == record);
    cut->Close();
  }
  const auto delta = Value(table->TakeCut(true, 1 << 20));
  EXPECT_EQ(delta->rows(), 1);
}

}  // namespace
}  // namespace recis::testing
