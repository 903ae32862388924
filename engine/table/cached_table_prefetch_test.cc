// On which stream a table with records on a device works, what its calls wait for, and what a
// prefetch moves meanwhile.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "device/space_testing.h"
#include "table/cached_table_testing.h"

namespace recis::testing {
namespace {

// Of ids [0, 100), cold, with no use of them yet.
struct Cold {
  explicit Cold(int64_t device_blocks, size_t device_bytes = size_t{1} << 40)
      : space(std::make_shared<WatchedSpace>(device_bytes)) {
    {
      const auto before = Open(directory.path(), 1 << 20);
      Lookup(*JoinCached(before, 4), Range(0, 100));
      EXPECT(before->Commit(1, "").ok());
      before->Close();
    }
    store = Open(directory.path(), 1 << 20);
    table = JoinCached(store, device_blocks, "t", EmulatedDevice(HostKernels(), space));
  }
  ~Cold() { store->Close(); }
  void Prefetch(const Ids& ids) const {
    Ids callers = ids;
    Ok(table->Prefetch(callers.data(), Size(callers)));
    std::fill(callers.begin(), callers.end(), -1);  // the caller's memory is the caller's again
    store->DrainBackground();
  }
  int64_t Reads() const { return store->Stats().log.reads; }

  TemporaryDirectory directory;
  std::shared_ptr<WatchedSpace> space;
  std::shared_ptr<Store> store;
  std::shared_ptr<CachedTable> table;
};

TEST(PrefetchedRowsAreOnTheDeviceWhenTheyAreLookedUp) {
  const Cold at(4);
  at.Prefetch(Range(0, 15));
  EXPECT_EQ(at.Reads(), 15);
  EXPECT_EQ(at.table->OfCache().promotes, 15);
  Values out;
  Lookup(*at.table, Range(0, 15), &out);
  EXPECT_EQ(at.Reads(), 15);
  EXPECT_EQ(at.table->OfCache().promotes, 15);
  EXPECT(out == Read(*at.table, Range(0, 15)));
  at.Prefetch(Range(0, 15));
  at.Prefetch(Range(1000, 1015));  // nobody has them
  EXPECT_EQ(at.Reads(), 15);
  EXPECT_EQ(at.table->OfCache().promotes, 15);
  EXPECT_EQ(at.table->size(), 100);
}

TEST(APrefetchSpillsNoneOfTheLastLookup) {
  const Cold at(4);  // 20 rows
  Lookup(*at.table, Range(0, 12));
  Lookup(*at.table, Range(20, 32));
  at.Prefetch(Range(40, 60));
  EXPECT_EQ(at.table->OfCache().rows, 20);
  EXPECT_EQ(at.table->OfCache().promotes, 12 + 12 + 8);
  Lookup(*at.table, Range(20, 32));
  EXPECT_EQ(at.table->OfCache().promotes, 32);
}

TEST(GradientsFollowRowsThatAPrefetchHasMoved) {
  const Cold at(2), calm(2);  // 10 rows, of 16 that are looked up
  Values moved, still;
  for (const Cold* each : {&at, &calm}) {
    const auto batch = Lookup(*each->table, Range(0, 16));
    Lookup(*each->table, Range(30, 32));
    if (each == &at) each->Prefetch(Range(8, 16));
    Accumulate(*each->table, batch);
    if (each == &at) EXPECT_EQ(each->table->OfCache().promotes, 10 + 2 + 8);
    Step(*each->table);
    (each == &at ? moved : still) = Read(*each->table, Range(0, 40));
  }
  EXPECT(moved == still);
}

TEST(ACallFollowsItsCallersStreamAndAPrefetchDoesNot) {
  const Cold at(4);
  char caller;
  UseStream(&caller);
  at.space->orders.clear();
  Lookup(*at.table, Range(0, 5));
  const Stream own = at.space->orders.at(0).second;
  EXPECT(own != nullptr && own != &caller);
  const std::vector<std::pair<Stream, Stream>> call = {{&caller, own}, {own, &caller}};
  EXPECT(at.space->orders == call);
  EXPECT(StreamInUse() == &caller);
  at.Prefetch(Range(20, 25));  // its copy of the ids is a call
  EXPECT(at.space->orders == (std::vector{call[0], call[1], call[0], call[1]}));
  EXPECT_EQ(at.table->OfCache().promotes, 10);
  UseStream(nullptr);
}

TEST(TheStreamOfATableLivesAsLongAsItsBatches) {
  std::shared_ptr<WatchedSpace> space;
  {
    std::shared_ptr<CachedBatch> batch;
    {
      const Cold at(4);
      space = at.space;
      batch = Lookup(*at.table, Range(0, 5));
    }
    EXPECT_EQ(space->streams, 1);
  }
  EXPECT_EQ(space->streams, 0);
}

TEST(StepsOfWhatIsAllOnTheDeviceDoNotWait) {
  const Cold at(4);
  const auto batch = Lookup(*at.table, Range(0, 15));
  Accumulate(*at.table, batch);  // makes room
  Ok(at.table->ClearGradient());
  at.space->waits = 0;
  for (int i = 0; i < 5; ++i) {
    Accumulate(*at.table, batch);
    Step(*at.table);
    Ok(at.table->ClearGradient());
  }
  EXPECT_EQ(at.space->waits, 0);
}

}  // namespace
}  // namespace recis::testing
