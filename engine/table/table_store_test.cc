// Tables in a store against twins in memory: the same calls give the same bits, whatever the
// budget, and a store that is opened again goes on from its last commit.

#include <algorithm>
#include <iterator>
#include <numeric>
#include <random>
#include <thread>

#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

TEST(AnyHotBudgetGivesTheSameBitsAsMemory) {
  for (const int64_t blocks : {1, 2, 4, 1000}) {
    const TemporaryDirectory directory;
    const auto memory = Table::Make(Options()).value();
    const auto store = Open(directory.path(), BytesOf(blocks));
    const auto table = Join(store);
    const auto states = AddStates(*memory);
    EXPECT(AddStates(*table) == states);
    Workload a(blocks), b(blocks);
    for (int round = 0; round < 20; ++round) {
      a.Run(*memory, states, 20);
      b.Run(*table, states, 20);
      EXPECT(ContentOf(*table) == ContentOf(*memory), blocks, round);
      if (round % 3 == 2) EXPECT_EQ(store->Commit(round, "").status().message(), "");
      const TableStats stats = table->Stats();
      EXPECT_EQ(stats.hot_rows + stats.cold_rows, stats.rows);
      EXPECT_LE(stats.hot_bytes, BytesOf(blocks));
    }
    store->Close();
  }
}

TEST(AStoreThatIsOpenedAgainGoesOnFromItsLastCommit) {
  const TemporaryDirectory directory;
  const auto memory = Table::Make(Options()).value();
  const auto states = AddStates(*memory);
  Workload a(1), b(1);
  for (int round = 0; round < 8; ++round) {
    const auto store = Open(directory.path(), BytesOf(1 + round % 4));
    EXPECT_EQ(store->Epochs().empty(), round == 0);
    const auto table = Join(store);
    EXPECT(AddStates(*table) == states);
    EXPECT(ContentOf(*table) == ContentOf(*memory), round);
    if (round > 0) EXPECT_EQ(store->State().value(), "state " + std::to_string(round - 1));
    a.Run(*memory, states, 30);
    b.Run(*table, states, 30);
    EXPECT(store->Commit(round, "state " + std::to_string(round)).ok());
    Workload(100 + round).Run(*table, states, 30);  // is lost
    store->Close();
  }
}

TEST(TheEpochBeforeTheLastCanBeOpened) {
  const TemporaryDirectory directory;
  const auto memory = Table::Make(Options()).value();
  const auto states = AddStates(*memory);
  Workload a(2), b(2);
  {
    const auto store = Open(directory.path(), BytesOf(2));
    const auto table = Join(store);
    AddStates(*table);
    for (int epoch = 1; epoch <= 5; ++epoch) {
      b.Run(*table, states, 20);
      EXPECT_EQ(store->Commit(epoch * 10, "").value().epoch, uint64_t(epoch));
      if (epoch < 5) a.Run(*memory, states, 20);
    }
    EXPECT_EQ(store->Epochs().size(), 2u);
    store->Close();
  }
  const auto store = Open(directory.path(), BytesOf(3), 4);
  EXPECT_EQ(store->Epochs().back().step, 40);
  const auto table = Join(store);
  EXPECT(ContentOf(*table) == ContentOf(*memory));
  // The next epoch takes the place of the one that was given up.
  b = a;
  a.Run(*memory, states, 20);
  b.Run(*table, states, 20);
  EXPECT_EQ(store->Commit(50, "").value().epoch, uint64_t{5});
  EXPECT(ContentOf(*table) == ContentOf(*memory));
  store->Close();
}

TEST(ReadingInEvalMovesNothing) {
  const TemporaryDirectory directory;
  const auto memory = Table::Make(Options()).value();
  const auto store = Open(directory.path(), BytesOf(2));
  const auto table = Join(store);
  const auto states = AddStates(*table);
  Workload(3).Run(*table, states, 30);
  const TableStats before = table->Stats();
  Ids ids;
  for (int64_t id = -70; id < 70; ++id) ids.push_back(id), ids.push_back(id / 2);
  Read(*table, ids);
  ContentOf(*table);
  const TableStats after = table->Stats();
  EXPECT_LT(0, before.cold_rows);
  EXPECT_EQ(after.promotes, before.promotes);
  EXPECT_EQ(after.spills, before.spills);
  EXPECT_EQ(after.hot_rows, before.hot_rows);
  store->Close();
}

TEST(TablesShareABudgetAndACommit) {
  const TemporaryDirectory directory;
  const int64_t budget = BytesOf(8);
  const auto one_memory = Table::Make(Options("one")).value(),
             two_memory = Table::Make(Options("two")).value();
  const auto states = AddStates(*one_memory);
  AddStates(*two_memory);
  Workload a(4), b(4);
  {
    const auto store = Open(directory.path(), budget);
    const auto one = Join(store, "one");
    AddStates(*one);
    Workload c(4);
    c.Run(*one, states, 20);  // takes all of the budget before the other comes
    a.Run(*one_memory, states, 20);
    const auto two = Join(store, "two");
    AddStates(*two);
    for (int round = 0; round < 10; ++round) {
      for (const auto& [table, memory] : {std::pair(one, one_memory), {two, two_memory}}) {
        a.Run(*memory, states, 10);
        c.Run(*table, states, 10);
      }
      EXPECT_LE(one->Stats().hot_bytes + two->Stats().hot_bytes, budget);
      EXPECT_LT(0, two->Stats().hot_rows);
    }
    EXPECT(store->Commit(1, "").ok());
    EXPECT(Join(store, "two") == two);
    store->Close();
  }
  const auto store = Open(directory.path(), budget);
  EXPECT(store->Tables() == std::vector<std::string>({"one", "two"}));
  EXPECT(ContentOf(*Join(store, "two")) == ContentOf(*two_memory));
  // The first is not there: the commit keeps it as it was.
  Workload(9).Run(*Join(store, "two"), states, 30);
  EXPECT(store->Commit(2, "").ok());
  EXPECT(store->Commit(3, "").ok());
  EXPECT(ContentOf(*Join(store, "one")) == ContentOf(*one_memory));
  store->Close();
}

TEST(AnotherSchemaIsRefusedAndNamed) {
  const TemporaryDirectory directory;
  {
    const auto store = Open(directory.path(), 1 << 20);
    Join(store);
    EXPECT(store->Commit(1, "").ok());
    store->Close();
  }
  const auto store = Open(directory.path(), 1 << 20);
  TableOptions options = Options();
  options.shape = {kDim + 1};
  const Status refused = Table::Make(options, store).status();
  EXPECT(refused.code() == Code::kInvalidArgument);
  EXPECT(refused.message().find("float32 [3]") != std::string::npos, refused.message());
  EXPECT(refused.message().find("float32 [4]") != std::string::npos, refused.message());
  store->Close();
}

TEST(ABudgetBelowOneBlockIsRefused) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), 79);  // a block of 5 rows of 16 bytes is 80
  const Status refused = Table::Make(Options(), store).status();
  EXPECT(refused.code() == Code::kInvalidArgument);
  EXPECT(refused.message().find("80") != std::string::npos, refused.message());
  store->Close();

  const TemporaryDirectory other;
  const auto enough = Open(other.path(), 80);
  const auto table = Join(enough);
  Lookup(*table, {1, 2, 3, 4, 5, 6, 7});
  const Content before = ContentOf(*table);
  const Status slot = table->AddSlot({.name = "m", .shape = {kDim}}).status();
  EXPECT(slot.code() == Code::kInvalidArgument);
  EXPECT(ContentOf(*table) == before);
  enough->Close();
}

TEST(BlocksAreReclaimed) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), BytesOf(200));
  const auto table = Join(store);
  const auto states = AddStates(*table);
  Ids ids;
  for (int64_t id = 0; id < 20000; ++id) ids.push_back(id);
  Lookup(*table, ids);
  std::mt19937_64 random(1);
  for (int round = 0; round < 100; ++round) {
    Ids some(2000);
    for (int64_t& id : some) id = static_cast<int64_t>(random() % 20000);
    Ok(Train(*table, some, states));
    if (round % 10 == 9) EXPECT(store->Commit(round, "").ok());
  }
  const StoreStats stats = store->Stats();
  EXPECT_LE(static_cast<double>(stats.block_bytes), 1.75 * static_cast<double>(stats.live_bytes));
  EXPECT_LT(0, stats.cleaned_bytes);
  Evict(*table, ids);
  EXPECT(store->Commit(1000, "").ok());
  EXPECT(store->Commit(1001, "").ok());
  EXPECT_EQ(store->Stats().live_bytes, 0);
  EXPECT_EQ(store->Stats().block_bytes, 0);
  EXPECT_EQ(store->Stats().dead_bytes, 0);
  store->Close();
}

TEST(WasteOfATableThatIsNotThereIsNotLookedForAtEverySpill) {
  const TemporaryDirectory directory;
  Ids ids(20000), most;
  std::iota(ids.begin(), ids.end(), 0);
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(most), [](int64_t id) { return id % 3; });
  for (const bool evict : {false, true}) {
    const auto store = Open(directory.path(), 1 << 20);
    const auto table = Join(store, "absent");
    evict ? void(Evict(*table, most)) : void(Lookup(*table, ids));
    EXPECT(store->Commit(1, "").ok());
    store->Close();
  }
  const auto store = Open(directory.path(), BytesOf(20));
  const auto table = Join(store);
  constexpr int64_t kSpills = 100, kRows = 100;
  const auto spill = [&](int64_t first) {
    Lookup(*table, Ids(ids.begin() + first * kRows, ids.begin() + (first + 1) * kRows));
  };
  for (int64_t i = 0; i < kSpills; ++i) spill(i);
  const StoreStats stats = store->Stats();
  EXPECT_EQ(stats.cleaned_bytes, 0);
  EXPECT_LT(1, stats.scans);
  EXPECT_LT(stats.scans, kSpills / 4);
  const auto absent = Join(store, "absent");
  spill(kSpills);
  EXPECT_LT(0, store->Stats().cleaned_bytes);
  store->Close();
}

TEST(ATableThatLeavesWasNeverThere) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), BytesOf(2));
  const auto known = Join(store, "known");
  Lookup(*known, {1, 2, 3, 4, 5, 6, 7});
  const Content before = ContentOf(*known);
  EXPECT(store->Commit(1, "").ok());
  store->Close();

  const auto again = Open(directory.path(), BytesOf(2));
  for (const char* name : {"new", "known"}) {
    EXPECT(!again->Joined(name));
    Join(again, name);
    EXPECT(again->Joined(name));
    again->Leave(name);
    EXPECT(!again->Joined(name));
    EXPECT_EQ(again->Stats().hot_bytes, 0);
    EXPECT(again->Tables() == std::vector<std::string>({"known"}));
  }
  EXPECT(again->Commit(2, "").ok());
  EXPECT(ContentOf(*Join(again, "known")) == before);
  again->Close();
}

TEST(AClearedTableLeavesNothingInTheStore) {
  const TemporaryDirectory directory;
  const auto memory = Table::Make(Options()).value();
  const auto states = AddStates(*memory);
  const auto store = Open(directory.path(), BytesOf(2));
  const auto table = Join(store);
  AddStates(*table);
  Workload(5).Run(*table, states, 30);
  EXPECT(store->Commit(1, "").ok());
  EXPECT(table->Clear().ok());
  EXPECT_EQ(store->Stats().live_bytes, 0);
  Workload a(6), b(6);
  a.Run(*memory, states, 30);
  b.Run(*table, states, 30);
  EXPECT(ContentOf(*table) == ContentOf(*memory));
  store->Close();
}

TEST(AClosedStoreIsOfNoUse) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), 1 << 20);
  const auto table = Join(store);
  Lookup(*table, {1, 2});
  store->Close();
  store->Close();
  const int64_t id = 1;
  Values out(kDim);
  auto* bytes = reinterpret_cast<std::byte*>(out.data());
  EXPECT(table->Read(&id, 1, bytes, false).code() == Code::kUnavailable);
  EXPECT(table->Lookup(&id, 1, nullptr, bytes, false).status().code() == Code::kUnavailable);
  EXPECT(table->Evict(&id, 1).status().code() == Code::kUnavailable);
  EXPECT(table->Clear().code() == Code::kUnavailable);
  EXPECT(store->Commit(1, "").status().code() == Code::kUnavailable);
}

TEST(ThreadsLookUpTrainCommitAndEvictAtOnce) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), BytesOf(10));
  const auto table = Join(store);
  const auto states = AddStates(*table);
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (int i = 0; i < 30; ++i) Workload(i).Run(*table, states, 5);
  });
  threads.emplace_back([&] {
    Ids ids;
    for (int64_t id = -60; id < 60; ++id) ids.push_back(id);
    for (int i = 0; i < 100; ++i) {
      Read(*table, ids);
      EXPECT(table->Prefetch(ids.data(), 40).ok());
      table->Stats();
      store->Stats();
    }
  });
  threads.emplace_back([&] {
    for (int i = 0; i < 10; ++i) EXPECT(store->Commit(i, "").ok());
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT(store->Commit(11, "").ok());
  const Content last = ContentOf(*table);
  store->Close();
  const auto again = Open(directory.path(), 1 << 20);
  EXPECT(ContentOf(*Join(again)) == last);
  again->Close();
}

}  // namespace
}  // namespace recis::testing
