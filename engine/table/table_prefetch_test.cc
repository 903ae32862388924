// Prefetched rows: each is read once, whoever comes first, and never stays as it was read if it has
// changed since.

#include <atomic>
#include <functional>
#include <numeric>
#include <thread>
#include <utility>

#include "base/env_testing.h"
#include "table/rows_in_flight.h"
#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

Ids FirstIds(int64_t count) {
  Ids ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

void Prefetch(Table& table, const Ids& ids) {
  Ok(table.Prefetch(ids.data(), static_cast<int64_t>(ids.size())));
}

// A store with a table of a hundred rows, all cold.
class Fixture {
 public:
  explicit Fixture(int64_t hot_bytes = 1 << 20) {
    {
      const auto store = Open(directory_.path(), hot_bytes);
      Lookup(*Join(store), FirstIds(100));
      EXPECT(store->Commit(1, "").ok());
      store->Close();
    }
    store = Open(directory_.path(), hot_bytes);
    table = Join(store);
  }
  ~Fixture() { store->Close(); }
  int64_t reads() const { return store->Stats().log.reads; }

 private:
  TemporaryDirectory directory_;

 public:
  std::shared_ptr<Store> store;
  std::shared_ptr<Table> table;
};

TEST(PrefetchPromotesInTheBackgroundAndReadsEachRowOnce) {
  const Fixture fixture;
  EXPECT_EQ(fixture.table->Stats().cold_rows, 100);
  Prefetch(*fixture.table, FirstIds(30));
  fixture.store->DrainBackground();
  EXPECT_EQ(fixture.table->Stats().hot_rows, 30);
  EXPECT_EQ(fixture.table->Stats().promotes, 30);
  Lookup(*fixture.table, FirstIds(30));
  EXPECT_EQ(fixture.reads(), 30);
}

TEST(PrefetchOfWhatIsHotReadsNothing) {
  const Fixture fixture;
  Lookup(*fixture.table, FirstIds(30));
  Prefetch(*fixture.table, FirstIds(40));
  fixture.store->DrainBackground();
  EXPECT_EQ(fixture.reads(), 40);
}

TEST(ALookupOfRowsThatAPrefetchIsReadingDoesNotReadThem) {
  const Fixture fixture;
  std::atomic<bool> looking{false};
  std::thread lookup;
  Interrupted disk([&] {
    lookup = std::thread([&] {
      looking = true;
      Lookup(*fixture.table, FirstIds(20));
    });
    while (!looking) std::this_thread::yield();
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  });
  {
    const ScopedEnv scoped(&disk);
    Prefetch(*fixture.table, FirstIds(30));
    fixture.store->DrainBackground();
    lookup.join();
  }
  EXPECT_EQ(fixture.reads(), 30);
}

TEST(ALookupOfOtherRowsDoesNotWaitForAPrefetch) {
  const Fixture fixture;
  const Ids others = {50, 51, 52};
  Interrupted disk([&] { Lookup(*fixture.table, others); });
  {
    const ScopedEnv scoped(&disk);
    Prefetch(*fixture.table, FirstIds(30));
    fixture.store->DrainBackground();
  }
  EXPECT_EQ(fixture.table->Stats().hot_rows, 33);
}

TEST(WhatChangesWhileItIsPrefetchedIsReadAgain) {
  const Fixture fixture(2 * kBlockRows * 16);  // ten rows
  const Ids ids = FirstIds(5);
  const Values changed(ids.size() * kDim, 7);
  Interrupted disk([&] {
    Insert(*fixture.table, ids, changed);
    Lookup(*fixture.table, {20, 21, 22, 23, 24, 25, 26, 27, 28, 29});  // spills them
    EXPECT(fixture.store->Commit(2, "").ok());
  });
  {
    const ScopedEnv scoped(&disk);
    Prefetch(*fixture.table, ids);
    fixture.store->DrainBackground();
  }
  EXPECT_EQ(fixture.table->Stats().promotes, 20);
  EXPECT(Read(*fixture.table, ids) == changed);
}

TEST(AReadErrorOfAPrefetchIsLeftToTheLookup) {
  const Fixture fixture;
  class : public Env {
   public:
    ssize_t Preadv(int /*fd*/, const iovec* /*parts*/, int /*count*/, off_t /*offset*/) override {
      return errno = EIO, -1;
    }
  } disk;
  {
    const ScopedEnv scoped(&disk);
    Prefetch(*fixture.table, FirstIds(30));
    fixture.store->DrainBackground();
    Values out(kDim);
    const int64_t id = 1;
    auto* bytes = reinterpret_cast<std::byte*>(out.data());
    EXPECT(fixture.table->Lookup(&id, 1, nullptr, bytes, false).status().code() == Code::kIo);
  }
  Lookup(*fixture.table, FirstIds(30));
  EXPECT_EQ(fixture.table->Stats().hot_rows, 30);
}

TEST(WhoAwaitsAPrefetchGoesOnWhenThatOneHasEnded) {
  RowsInFlight rows;
  const auto all = [](Row) { return true; };
  const Row wanted[] = {9, 4};
  EXPECT_EQ(rows.Reading(wanted, 2, all), 0u);
  rows.Begin({7, 4});
  EXPECT_EQ(rows.Reading(wanted, 1, all), 0u);
  EXPECT_EQ(rows.Reading(wanted, 2, [](Row row) { return row != 4; }), 0u);
  const uint64_t first = rows.Reading(wanted, 2, all);
  EXPECT_LT(0u, first);
  rows.End();
  EXPECT_EQ(rows.Reading(wanted, 2, all), 0u);
  rows.Begin({4});
  EXPECT_LT(first, rows.Reading(wanted, 2, all));
  rows.Await(first);
}

}  // namespace
}  // namespace recis::testing
