#include <atomic>
#include <cerrno>
#include <functional>
#include <map>
#include <thread>

#include "base/env_testing.h"
#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

constexpr uint32_t kSlices = 16;
constexpr int64_t kPoolBytes = int64_t{64} << 20;

// The slots of each id, one after the other.
using ById = std::map<int64_t, Values>;

ById ContentById(const Table& table) {
  const Content content = ContentOf(table);
  const std::vector<Slot> slots = table.Slots();
  ById by_id;
  for (size_t i = 0; i < content.ids.size(); ++i) {
    Values& values = by_id[content.ids[i]];
    for (size_t k = 0; k < slots.size(); ++k) {
      const float* value = content.slots[k].data() + i * slots[k].count;
      values.insert(values.end(), value, value + slots[k].count);
    }
  }
  return by_id;
}

// Adds what a cut says of slices [begin, end), and checks the order.
void AddPart(const Cut& cut, uint32_t begin, uint32_t end, ById* by_id) {
  std::vector<RowOfId> rows;
  Ok(cut.List(kSlices, begin, end, &rows));
  std::vector<Values> slots;
  std::vector<std::byte*> addresses;
  for (const Slot& slot : cut.slots()) slots.emplace_back(rows.size() * slot.count);
  for (Values& values : slots) addresses.push_back(reinterpret_cast<std::byte*>(values.data()));
  Ok(cut.Gather(rows.data(), static_cast<int64_t>(rows.size()), addresses));
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto place = [](const RowOfId& row) {
      return std::pair(SliceOf(row.id, kSlices), row.id);
    };
    if (i > 0) EXPECT(place(rows[i - 1]) < place(rows[i]));
    Values& values = (*by_id)[rows[i].id];
    EXPECT(values.empty(), rows[i].id);
    for (size_t k = 0; k < slots.size(); ++k) {
      const int64_t count = cut.slots()[k].count;
      const float* value = slots[k].data() + static_cast<int64_t>(i) * count;
      values.insert(values.end(), value, value + count);
    }
  }
}

ById ContentOfCut(const Cut& cut) {
  ById by_id;
  AddPart(cut, 0, kSlices, &by_id);
  EXPECT_EQ(static_cast<int64_t>(by_id.size()), cut.rows());
  std::vector<int64_t> counts(kSlices);
  Ok(cut.CountSlices(kSlices, counts.data()));
  for (const auto& [id, values] : by_id) --counts[SliceOf(id, kSlices)];
  EXPECT_EQ(counts, std::vector<int64_t>(kSlices, 0));
  return by_id;
}

// At the first read that it is armed for, something happens first, on another thread.
class Beside : public Env {
 public:
  std::function<void()> happens;
  ssize_t Preadv(int fd, const iovec* parts, int count, off_t offset) override {
    if (happens) {
      const auto armed = std::exchange(happens, nullptr);
      std::thread(armed).join();
    }
    if (always || std::exchange(fails, false)) return errno = EIO, -1;
    return Env::Preadv(fd, parts, count, offset);
  }
  bool fails = false;   // the next read
  bool always = false;  // all of them
};

// A table of so many rows, of which five are hot and the others durable.
std::shared_ptr<Table> MakeCold(const std::shared_ptr<Store>& store, int64_t rows) {
  const std::shared_ptr<Table> table = Join(store);
  AddStates(*table);
  for (int64_t id = 0; id < rows; ++id) Insert(*table, {id}, {1.0F * id, 2.0F * id, 3.0F * id});
  Value(store->Commit(1, ""));
  return table;
}

// Tables in memory, and in a store with a few hot blocks, one after the other.
template <class Body>
void ForEachHome(Body body) {
  for (const int64_t blocks : {0, 1, 3}) {
    if (blocks == 0) {
      body(MakeTable({3}));
      continue;
    }
    const TemporaryDirectory folder;
    StoreOptions options;
    options.log = At(folder.path());
    options.hot_bytes = blocks * 5 * 48;
    const std::shared_ptr<Store> store = Value(Store::Open(options));
    body(Value(Table::Make({.name = "t", .shape = {3}, .draw = {}}, store)));
    store->Close();
  }
}

}  // namespace

TEST(ACutIsTheMomentWhateverFollows) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    ForEachHome([seed](const std::shared_ptr<Table>& table) {
      const std::vector<int> states = AddStates(*table);
      Workload workload(seed);
      workload.Run(*table, states, 20);
      const ById expected = ContentById(*table);
      const int64_t listed_rows = seed % 2 == 0 ? 7 : Cut::kListedRows;
      const std::shared_ptr<Cut> cut = Value(table->TakeCut(false, kPoolBytes, listed_rows));
      ById found;
      for (uint32_t slice = 0; slice < kSlices; slice += 4) {
        workload.Run(*table, states, 5);
        if (slice == 8) AddSlot(*table, "later", {2});
        AddPart(*cut, slice, slice + 4, &found);
        cut->Done(kSlices, slice, slice + 4);
      }
      EXPECT(found == expected, seed);
      cut->Close();
      workload.Run(*table, states, 5);
    });
  }
}

TEST(ColdRowsAreReadOnceEach) {
  const TemporaryDirectory folder;
  const std::shared_ptr<Store> store = Open(folder.path(), BytesOf(1));
  const std::shared_ptr<Table> table = MakeCold(store, 500);
  const ById expected = ContentById(*table);
  const std::shared_ptr<Cut> cut = Value(table->TakeCut(false, kPoolBytes));
  const int64_t before = store->Stats().log.reads;
  EXPECT(ContentOfCut(*cut) == expected);
  EXPECT_EQ(store->Stats().log.reads - before, table->Stats().cold_rows);
  store->Close();
}

TEST(ATableIsNotLockedWhileItsColdRowsAreRead) {
  const TemporaryDirectory folder;
  Beside disk;
  const ScopedEnv replaced(&disk);
  const std::shared_ptr<Store> store = Open(folder.path(), BytesOf(1));
  const std::shared_ptr<Table> table = MakeCold(store, 100);
  const ById expected = ContentById(*table);
  int64_t step = 1;
  for (const bool fails : {false, true}) {
    const std::shared_ptr<Cut> cut = Value(table->TakeCut(false, kPoolBytes));
    disk.happens = [&] {
      Insert(*table, {3, 40, 1000}, {9, 9, 9, 9, 9, 9, 9, 9, 9});
      Evict(*table, {5, 41, 99});
      Lookup(*table, {7, 50, 98});  // become hot, and others cold
      Value(store->Commit(++step, ""));
      disk.fails = fails;
    };
    EXPECT(ContentOfCut(*cut) == expected, fails);
    cut->Close();
    for (const auto& [id, values] : expected)
      Insert(*table, {id}, {values[0], values[1], values[2]});
    Evict(*table, {1000});
  }
  store->Close();
}

TEST(ADiskThatFailsIsNamedByASnapshot) {
  const TemporaryDirectory folder;
  Beside disk;
  const ScopedEnv replaced(&disk);
  const std::shared_ptr<Store> store = Open(folder.path(), BytesOf(1));
  const std::shared_ptr<Table> table = MakeCold(store, 100);
  const std::shared_ptr<Cut> cut = Value(table->TakeCut(false, kPoolBytes));
  std::vector<RowOfId> rows;
  Ok(cut->List(kSlices, 0, kSlices, &rows));
  std::vector<Values> slots(3, Values(rows.size() * kDim));
  std::vector<std::byte*> addresses;
  for (Values& values : slots) addresses.push_back(reinterpret_cast<std::byte*>(values.data()));
  disk.always = true;
  const Status failed = cut->Gather(rows.data(), static_cast<int64_t>(rows.size()), addresses);
  disk.always = false;
  EXPECT(failed.code() == Code::kIo, failed.message());
  EXPECT(failed.message().find(folder.path()) != std::string::npos, failed.message());
  cut->Close();
  store->Close();
}

TEST(ADeltaHasWhatChangedAndNothingElse) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    ForEachHome([seed](const std::shared_ptr<Table>& table) {
      const std::vector<int> states = AddStates(*table);
      Workload workload(seed);
      workload.Run(*table, states, 20);
      Ok(table->Track(true));
      Value(table->TakeCut(false, kPoolBytes))->Close();
      ById known = ContentById(*table);
      for (int round = 0; round < 4; ++round) {
        workload.Run(*table, states, 1 + round);
        const ById now = ContentById(*table);
        // One that comes to nothing leaves its changes to the next.
        if (round % 2 == 1) {
          const std::shared_ptr<Cut> abandoned = Value(table->TakeCut(true, kPoolBytes));
          workload.Run(*table, states, 1);
          if (round == 1) abandoned->Abandon();
        }
        const ById current = ContentById(*table);
        const std::shared_ptr<Cut> delta = Value(table->TakeCut(true, kPoolBytes));
        const ById changed = ContentOfCut(*delta);
        const ById before = known;
        for (const int64_t id : delta->deleted()) known.erase(id);
        for (const auto& [id, values] : changed) known[id] = values;
        EXPECT(known == current, seed, round);
        delta->Close();
      }
      const std::shared_ptr<Cut> nothing = Value(table->TakeCut(true, kPoolBytes));
      EXPECT_EQ(nothing->rows(), 0);
      EXPECT(nothing->deleted().empty());
    });
  }
}

TEST(ADeltaIsOfTheRowsThatWereWritten) {
  const std::shared_ptr<Table> table = MakeTable({1});
  Insert(*table, {1, 2, 3, 4}, {1, 2, 3, 4});
  Ok(table->Track(true));
  Read(*table, {1, 2});
  Lookup(*table, {1});
  Insert(*table, {2, 9}, {5, 9});
  Evict(*table, {3});
  Evict(*table, {4});
  Insert(*table, {4}, {6});
  const std::shared_ptr<Cut> delta = Value(table->TakeCut(true, kPoolBytes));
  EXPECT(ContentOfCut(*delta) == ById({{2, {5}}, {4, {6}}, {9, {9}}}));
  EXPECT_EQ(delta->deleted(), Ids({3}));
}

TEST(ClearingATableDeletesItsIdsFromTheDelta) {
  const std::shared_ptr<Table> table = MakeTable({1});
  Insert(*table, {1, 2}, {1, 2});
  Ok(table->Track(true));
  Ok(table->Clear());
  Insert(*table, {2}, {3});
  const std::shared_ptr<Cut> delta = Value(table->TakeCut(true, kPoolBytes));
  EXPECT(ContentOfCut(*delta) == ById({{2, {3}}}));
  EXPECT_EQ(delta->deleted(), Ids({1}));
}

TEST(ADeltaIsWholeOnceThereWasAView) {
  const std::shared_ptr<Table> table = MakeTable({1});
  Insert(*table, {1, 2}, {1, 2});
  Ok(table->Track(true));
  const BlockView view = Value(table->View(0, 0));
  EXPECT_EQ(Value(table->TakeCut(true, kPoolBytes))->rows(), 2);
}

TEST(WhatACutRefuses) {
  const std::shared_ptr<Table> table = MakeTable({1});
  Insert(*table, {1}, {1});
  EXPECT_EQ(static_cast<int>(table->TakeCut(true, kPoolBytes).status().code()),
            static_cast<int>(Code::kInvalidArgument));
  const std::shared_ptr<Cut> cut = Value(table->TakeCut(false, kPoolBytes));
  EXPECT_EQ(static_cast<int>(table->TakeCut(false, kPoolBytes).status().code()),
            static_cast<int>(Code::kUnavailable));
  EXPECT(!table->Clear().ok());
  EXPECT(ContentOfCut(*cut) == ById({{1, {1}}}));
  cut->Close();
  Ok(table->Clear());
}

TEST(ASlowSaverMakesChangesWaitAndNothingElse) {
  const std::shared_ptr<Table> table = MakeTable({3});
  const std::vector<int> states = AddStates(*table);
  Workload workload(7);
  workload.Run(*table, states, 30);
  const ById expected = ContentById(*table);
  // Room for a few records: a few calls at most go on.
  std::shared_ptr<Cut> cut = Value(table->TakeCut(false, 200));
  std::atomic<bool> stop{false};
  std::thread trainer([&] {
    while (!stop) workload.Run(*table, states, 1);
  });
  ById found;
  for (uint32_t slice = 0; slice < kSlices; ++slice) {
    AddPart(*cut, slice, slice + 1, &found);
    cut->Done(kSlices, slice, slice + 1);
  }
  cut.reset();
  // One that is never read: whoever waits is let go when it is abandoned.
  cut = Value(table->TakeCut(false, 0));
  Read(*table, {1, 2, 3});
  std::this_thread::yield();
  cut->Abandon();
  stop = true;
  trainer.join();
  EXPECT(found == expected);
}

TEST(RestoreGivesIdsTheirSlots) {
  ForEachHome([](const std::shared_ptr<Table>& table) {
    const std::vector<int> states = AddStates(*table);
    Insert(*table, {1, 2}, {1, 1, 1, 2, 2, 2});
    const Ids ids{2, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40};
    Values embeddings(ids.size() * 3), moments(ids.size() * 3);
    for (size_t i = 0; i < embeddings.size(); ++i) {
      embeddings[i] = static_cast<float>(i);
      moments[i] = static_cast<float>(1000 + i);
    }
    const std::vector<const std::byte*> values{
        reinterpret_cast<const std::byte*>(moments.data()),
        reinterpret_cast<const std::byte*>(embeddings.data())};
    const auto n = static_cast<int64_t>(ids.size());
    Ok(table->Restore(ids.data(), n, {states[1], 0}, values));
    ById expected{{1, {1, 1, 1, 0, 0, 0, 0, 0, 0}}};
    for (size_t i = 0; i < ids.size(); ++i) {
      const float* e = &embeddings[i * 3];
      const float* m = &moments[i * 3];
      expected[ids[i]] = {e[0], e[1], e[2], 0, 0, 0, m[0], m[1], m[2]};
    }
    EXPECT(ContentById(*table) == expected);

    const Ids twice{50, 50};
    EXPECT(!table->Restore(twice.data(), 2, {0}, {values[1]}).ok());
    EXPECT(!table->Restore(ids.data(), n, {9}, {values[1]}).ok());
    EXPECT(ContentById(*table) == expected);
  });
}

TEST(WithoutItsEmbeddingANewIdIsDrawn) {
  const DrawArgs draw{.distribution = Distribution::kUniform, .scale = 1, .seed = 3};
  const std::shared_ptr<Table> table = MakeTable({2}, draw), twin = MakeTable({2}, draw);
  const int counter = AddSlot(*table, "count", {1});
  const float one = 1;
  const int64_t id = 5;
  Ok(table->Restore(&id, 1, {counter}, {reinterpret_cast<const std::byte*>(&one)}));
  EXPECT_EQ(Read(*table, {5}), Lookup(*twin, {5}).values);
}

}  // namespace recis::testing
