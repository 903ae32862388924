// On which stream a table with records on a device works, what its calls wait for, and what a
// prefetch moves meanwhile.

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/env_testing.h"
#include "device/space_testing.h"
#include "table/cached_table_testing.h"

namespace recis::testing {
namespace {

// Of ids [0, 100), cold, with no use of them yet.
struct Cold {
  explicit Cold(int64_t device_blocks, std::shared_ptr<WatchedSpace> of = AnySpace())
      : space(std::move(of)) {
    {
      const auto before = Open(directory.path(), 1 << 20);
      testing::Lookup(*JoinCached(before, 4), Range(0, 100));
      EXPECT(before->Commit(1, "").ok());
      before->Close();
    }
    store = Open(directory.path(), 1 << 20);
    table = JoinCached(store, device_blocks, "t", EmulatedDevice(HostKernels(), space));
  }
  ~Cold() { store->Close(); }
  static std::shared_ptr<WatchedSpace> AnySpace() {
    return std::make_shared<WatchedSpace>(size_t{1} << 40);
  }
  std::shared_ptr<Prefetched> StartPrefetch(const Ids& ids) const {
    Ids callers = ids;
    auto prefetched = Value(table->Prefetch(callers.data(), Size(callers)));
    std::fill(callers.begin(), callers.end(), -1);  // the caller's memory is the caller's again
    return prefetched;
  }
  std::shared_ptr<Prefetched> Prefetch(const Ids& ids) const {
    auto prefetched = StartPrefetch(ids);
    store->DrainBackground();
    return prefetched;
  }
  std::shared_ptr<CachedBatch> Lookup(Prefetched& prefetched, const Ids& ids) const {
    Values out(ids.size() * kDim);
    auto batch = Value(table->Lookup(prefetched, nullptr, Bytes(out)));
    EXPECT(out == Read(*table, ids));
    return batch;
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

TEST(APrefetchSpillsNoneOfItsOwn) {
  const Cold at(4);  // 20 rows
  Lookup(*at.table, Range(0, 20));
  Lookup(*at.table, Range(99, 100));
  at.Prefetch(Range(0, 20));
  EXPECT_EQ(at.table->OfCache().promotes, 21);
}

TEST(WhatWasPrefetchedIsLookedUpOnce) {
  const Cold at(4);
  const auto prefetched = at.Prefetch(Range(0, 15));
  at.Lookup(*prefetched, Range(0, 15));
  EXPECT_EQ(at.table->OfCache().promotes, 15);
  Values out(15 * kDim);
  const Status again = at.table->Lookup(*prefetched, nullptr, Bytes(out)).status();
  EXPECT(again.code() == Code::kInvalidArgument);
  EXPECT_EQ(again.message(),
            "table 't': these prefetched ids were looked up already: prefetch them again");
}

// The store's background thread goes on when this is given up.
class HeldBackground {
 public:
  explicit HeldBackground(Store& store) : store_(store) {
    store.InBackground([go = go_on_.get_future().share()] { go.wait(); });
  }
  ~HeldBackground() {
    go_on_.set_value();
    store_.DrainBackground();
  }

 private:
  Store& store_;
  std::promise<void> go_on_;
};

TEST(PrefetchedIdsCanBeLookedUpSooner) {
  const Cold at(4);
  {
    const HeldBackground held(*at.store);
    const auto prefetched = at.StartPrefetch(Range(0, 15));
    at.Lookup(*prefetched, Range(0, 15));
    EXPECT_EQ(at.table->OfCache().promotes, 15);
  }
  EXPECT_EQ(at.table->OfCache().promotes, 15);
}

TEST(PrefetchedIdsAreLookedUpAsOfThen) {
  const Cold at(4), calm(4);  // of 20 rows
  for (const Cold* each : {&at, &calm}) {
    const Ids ids = Range(90, 105);  // 100 and more have no rows
    std::shared_ptr<Prefetched> prefetched;
    if (each == &at) prefetched = at.Prefetch(ids);
    Train(*each->table, Range(95, 103));
    const Ids gone = Range(92, 94), others = Range(200, 204);
    Value(each->table->Evict(gone.data(), Size(gone)));
    Lookup(*each->table, others);  // two are in the rows of those
    Value(each->table->AddSlot({.name = "more", .shape = {1}}));
    Lookup(*each->table, Range(0, 12));
    const auto batch = each == &at ? at.Lookup(*prefetched, ids) : Lookup(*calm.table, ids);
    if (each == &calm) Read(*calm.table, ids);
    Accumulate(*each->table, batch);
    Step(*each->table);
  }
  EXPECT(ContentOf(*at.table) == ContentOf(*calm.table));
  EXPECT_EQ(Value(at.table->Stats()).hits, Value(calm.table->Stats()).hits);
}

TEST(ATableThatGotASlotSinceTakesNoGradientForWhereRowsWere) {
  const Cold at(2), calm(2);  // of 10 rows
  for (const Cold* each : {&at, &calm}) {
    const Ids ids = Range(0, 10);
    Lookup(*each->table, ids);
    std::shared_ptr<Prefetched> prefetched;
    {
      const HeldBackground held(*each->store);
      if (each == &at) prefetched = at.StartPrefetch(ids);
      Value(each->table->AddSlot({.name = "more", .shape = {1}}));
      Accumulate(*each->table, Lookup(*each->table, Range(50, 60)));  // there now, for good
    }
    const auto batch = each == &at ? at.Lookup(*prefetched, ids) : Lookup(*calm.table, ids);
    Accumulate(*each->table, batch);
    Step(*each->table);
  }
  EXPECT(ContentOf(*at.table) == ContentOf(*calm.table));
}

TEST(WhatIsLookedUpBeforeItsPrefetchIsDoneStaysAsItWasFound) {
  const Cold at(4);
  const Ids ids = Range(0, 5);
  std::shared_ptr<CachedBatch> batch;
  std::shared_ptr<Prefetched> prefetched;
  Interrupted disk([&] {
    Value(at.table->Evict(ids.data(), Size(ids)));
    AdmitNone none;
    Values out(ids.size() * kDim);
    batch = Value(at.table->Lookup(*prefetched, &none, Bytes(out)));
    Lookup(*at.table, ids);  // now they have rows again
  });
  {
    const HeldBackground held(*at.store);
    prefetched = at.StartPrefetch(ids);
    Env::Replace(&disk);
  }
  Env::Replace(nullptr);
  Accumulate(*at.table, batch);
  EXPECT_EQ(Value(at.table->GradientRows()), 0);
}

// A device for which all but one thread wait in vain.
class StuckSpace : public WatchedSpace {
 public:
  using WatchedSpace::WatchedSpace;
  Status Wait(Stream stream) override {
    if (std::this_thread::get_id() != others_go_on_) gone_on_.wait();
    return WatchedSpace::Wait(stream);
  }
  void GoOn() { go_on_.set_value(); }

 private:
  const std::thread::id others_go_on_ = std::this_thread::get_id();
  std::promise<void> go_on_;
  const std::shared_future<void> gone_on_ = go_on_.get_future().share();
};

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

TEST(OthersGoOnWhileAPrefetchWaitsForTheDevice) {
  const auto space = std::make_shared<StuckSpace>(size_t{1} << 40);
  const Cold at(8, space);
  const auto prefetched = at.StartPrefetch(Range(0, 15));
  Train(*at.table, Range(20, 30));
  EXPECT_EQ(at.table->OfCache().promotes, 10);
  space->GoOn();
  at.store->DrainBackground();
  EXPECT_EQ(at.table->OfCache().promotes, 10 + 15);
  at.Lookup(*prefetched, Range(0, 15));
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
  at.space->orders.clear();
  at.Prefetch(Range(20, 25));  // its call finds the ids, which another stream copies to the host
  EXPECT_EQ(at.space->orders.size(), size_t{3});
  const auto copied = at.space->orders.at(1);
  EXPECT(copied.first == own && copied.second != own && copied.second != &caller);
  EXPECT(at.space->orders == (std::vector{call[0], copied, call[1]}));
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
    EXPECT_EQ(space->streams, 2);
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

TEST(NothingWaitsInTheStepOfABatchThatWasPrefetched) {
  const Cold at(4);
  Train(*at.table, Range(90, 95));  // makes room
  for (int i = 0; i < 3; ++i) {     // at first the rows come from the disk
    at.space->waits = 0;
    std::shared_ptr<Prefetched> prefetched;
    {
      const HeldBackground held(*at.store);
      prefetched = at.StartPrefetch(Range(0, 15));
      EXPECT_EQ(at.space->waits, 0);
    }
    at.space->waits = 0;
    Values out(15 * kDim);
    const auto batch = Value(at.table->Lookup(*prefetched, nullptr, Bytes(out)));
    Accumulate(*at.table, batch);
    Step(*at.table);
    Ok(at.table->ClearGradient());
    EXPECT_EQ(at.space->waits, 0);
    EXPECT(out != Read(*at.table, Range(0, 15)));
  }
}

TEST(ReadingDoesNotWaitWhileTheDeviceHasAllRows) {
  const TemporaryDirectory directory;
  const auto space = Cold::AnySpace();
  const auto store = Open(directory.path(), 1 << 20);
  const auto table = JoinCached(store, 4, "t", EmulatedDevice(HostKernels(), space));
  Values out;
  Lookup(*table, Range(0, 15), &out);
  space->waits = 0;
  Values read = Read(*table, Range(0, 20));
  EXPECT_EQ(space->waits, 0);
  EXPECT(read == (out.resize(20 * kDim), out));
  for (const int64_t hits : {15, 15 + 1}) {
    const TableStats stats = Value(table->Stats());
    EXPECT_EQ(stats.hits, hits);
    EXPECT_EQ(stats.misses, 15 + 5);
    Value(table->AddSlot({.name = "more" + std::to_string(hits), .shape = {1}}));
    Lookup(*table, {3});  // and 14 are in the table alone
  }
  read = Read(*table, Range(0, 20));
  EXPECT(read == out);
  Ok(table->Clear());
  EXPECT_EQ(Value(table->Stats()).hits, 15 + 2 + 15);
  store->Close();
}

}  // namespace
}  // namespace recis::testing
