// Each call that changes a table, during a cut and between two.

#include <functional>
#include <string>

#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

constexpr int64_t kRows = 12;

const std::byte* BytesOf(const auto& values) {
  return reinterpret_cast<const std::byte*>(values.data());
}

// Every slot of every row of a cut, as bytes.
std::vector<std::string> ContentOfCut(const Cut& cut, Ids* ids) {
  std::vector<RowOfId> rows;
  Ok(cut.List(1, 0, 1, &rows));
  std::vector<std::string> slots;
  std::vector<std::byte*> addresses;
  for (const Slot& slot : cut.slots()) slots.emplace_back(rows.size() * slot.bytes(), '?');
  for (std::string& slot : slots) addresses.push_back(reinterpret_cast<std::byte*>(slot.data()));
  Ok(cut.Gather(rows.data(), static_cast<int64_t>(rows.size()), addresses));
  ids->clear();
  for (const RowOfId& row : rows) ids->push_back(row.id);
  return slots;
}

struct Change {
  const char* name;
  std::function<void(Table&)> apply;
  Ids changed;  // of ids 0, 1, ... kRows - 1, and new ones
  Ids deleted;
};

std::vector<Change> Changes() {
  const auto row_of = [](Table& table, int64_t id) { return RowsOf(table, {id})[0]; };
  return {
      {"insert", [](Table& t) { Insert(t, {3, 50}, {7, 8}); }, {3, 50}, {}},
      {"evict", [](Table& t) { Evict(t, {3, 99}); }, {}, {3}},
      {"evict and reuse", [](Table& t) { Evict(t, {3}), Insert(t, {50}, {7}); }, {50}, {3}},
      {"evict and return", [](Table& t) { Evict(t, {3}), Insert(t, {3}, {7}); }, {3}, {}},
      {"come and go", [](Table& t) { Insert(t, {50}, {7}), Evict(t, {50}); }, {}, {50}},
      {"lookup", [](Table& t) { Lookup(t, {3, 50}); }, {50}, {}},
      {"step", [](Table& t) { Ok(Train(t, {2, 4, 2}, {})); }, {2, 4}, {}},
      {"write a slot",
       [=](Table& t) {
         const int64_t row = row_of(t, 5);
         Ok(t.WriteSlot(0, &row, 1, BytesOf(Values{9})));
       },
       {5},
       {}},
      {"add to a slot",
       [=](Table& t) {
         const int64_t row = row_of(t, 6), one = 1;
         Ok(t.AddToSlot(1, &row, 1, &one));
       },
       {6},
       {}},
      {"restore",
       [](Table& t) {
         const Ids ids{60, 7, 61}, counts{4, 5, 6};
         Ok(t.Restore(ids.data(), 3, {1}, {BytesOf(counts)}));
       },
       {7, 60, 61},
       {}},
      {"add a slot", [](Table& t) { AddSlot(t, "later", {4}, 1); }, {}, {}},
      {"refused restore",
       [](Table& t) {
         const Ids ids{70, 7, 70}, counts{4, 5, 6};
         EXPECT(!t.Restore(ids.data(), 3, {1}, {BytesOf(counts)}).ok());
       },
       {},
       {}},
  };
}

void EveryChange(const std::function<std::shared_ptr<Table>()>& make) {
  for (const Change& change : Changes()) {
    const std::shared_ptr<Table> table = make();
    Result<int> counter = table->AddSlot({.name = "count", .dtype = DType::kInt64, .shape = {}});
    Ok(counter.status());
    for (int64_t id = 0; id < kRows; ++id) Insert(*table, {id}, {static_cast<float>(id)});
    Ok(table->Track(true));
    Ids ids, ids_after;
    {
      const auto cut = Value(table->TakeCut(false, 1 << 20));
      const auto expected = ContentOfCut(*cut, &ids);
      change.apply(*table);
      EXPECT(ContentOfCut(*cut, &ids_after) == expected, change.name);
      EXPECT_EQ(ids_after, ids, change.name);
      EXPECT_EQ(static_cast<int64_t>(ids.size()), kRows);
      cut->Close();
    }
    // What changed during the cut that was closed is for the next one.
    const auto delta = Value(table->TakeCut(true, 1 << 20));
    ContentOfCut(*delta, &ids);
    EXPECT_EQ(ids, change.changed, change.name);
    EXPECT_EQ(delta->deleted(), change.deleted, change.name);
    EXPECT_EQ(delta->rows(), static_cast<int64_t>(ids.size()), change.name);
  }
}

TEST(EveryChangeInMemoryIsSeen) {
  EveryChange([] { return MakeTable({1}); });
}

TEST(EveryChangeInAStoreIsSeen) {
  for (const int64_t blocks : {14, 40}) {
    const TemporaryDirectory folder;
    StoreOptions options;
    options.log = At(folder.path());
    options.hot_bytes = blocks * 5 * 32;  // shared by the tables
    const std::shared_ptr<Store> store = Value(Store::Open(options));
    int made = 0;
    EveryChange([&] {
      const std::string name = std::to_string(made++);
      return Value(Table::Make({.name = name, .shape = {1}, .draw = {}}, store));
    });
    EXPECT_LT(0, store->Stats().live_bytes);  // not all of it fits in memory
    store->Close();
  }
}

}  // namespace
}  // namespace recis::testing
