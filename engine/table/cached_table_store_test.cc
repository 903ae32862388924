// What a table with records on a device does with its store: how many rows move and are written,
// what a commit and a cut have, and what goes on when the disk or the device is full.

#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/env_testing.h"
#include "device/late_device_testing.h"
#include "table/cached_table_testing.h"

namespace recis::testing {
namespace {

// A store with a table of two blocks on a device.
struct Fixture {
  explicit Fixture(int64_t blocks = 2, int64_t hot_bytes = 1 << 20)
      : store(Open(directory.path(), hot_bytes)), table(JoinCached(store, blocks)) {}
  ~Fixture() { store->Close(); }

  TemporaryDirectory directory;
  std::shared_ptr<Store> store;
  std::shared_ptr<CachedTable> table;
};

TEST(RowsAreWrittenBackOnlyIfTheyHaveChanged) {
  Fixture at;
  Lookup(*at.table, Range(0, 10));
  EXPECT_EQ(at.table->OfCache().promotes, 10);
  Lookup(*at.table, Range(0, 10));
  EXPECT_EQ(at.table->OfCache().promotes, 10);
  Lookup(*at.table, Range(10, 20));
  CacheStats stats = at.table->OfCache();
  EXPECT_EQ(stats.spills, 10);
  EXPECT_EQ(stats.drops, 10);
  EXPECT_EQ(stats.write_backs, 0);
  EXPECT_EQ(stats.rows, 10);
  Train(*at.table, Range(10, 14));
  Lookup(*at.table, Range(20, 30));
  stats = at.table->OfCache();
  EXPECT_EQ(stats.spills, 20);
  EXPECT_EQ(stats.drops, 16);
  EXPECT_EQ(stats.write_backs, 4);
}

TEST(ACommitWritesWhatHasChangedBackOnce) {
  Fixture at;
  Train(*at.table, Range(0, 7));
  EXPECT(at.store->Commit(1, "").ok());
  EXPECT_EQ(at.table->OfCache().write_backs, 7);
  EXPECT(at.store->Commit(2, "").ok());
  EXPECT(Value(at.table->WriteBackAndHold()).owns_lock());
  Lookup(*at.table, Range(10, 20));
  const CacheStats stats = at.table->OfCache();
  EXPECT_EQ(stats.write_backs, 7);
  EXPECT_EQ(stats.drops, stats.spills);
}

TEST(TheColdestRowsAreSpilled) {
  Fixture at;
  for (int i = 0; i < 3; ++i) Lookup(*at.table, Range(0, 5));  // hot
  Lookup(*at.table, Range(5, 10));
  Lookup(*at.table, Range(10, 15));
  const int64_t promotes = at.table->OfCache().promotes;
  Lookup(*at.table, Range(0, 5));
  EXPECT_EQ(at.table->OfCache().promotes, promotes);
}

TEST(ReadingMovesNothing) {
  Fixture at(2, BytesOf(3));
  Train(*at.table, Range(0, 40));
  Ok(at.table->Step({.rule = Rule::kSgd, .step_size = 0.1}, {}));
  const CacheStats before = at.table->OfCache();
  const TableStats table_before = Value(at.table->Stats());
  Read(*at.table, Range(-10, 50));
  Ids rows(40);
  Ok(at.table->Rows(Range(0, 40).data(), 40, rows.data()));
  const CacheStats after = at.table->OfCache();
  EXPECT_EQ(after.promotes, before.promotes);
  EXPECT_EQ(after.spills, before.spills);
  EXPECT_EQ(after.write_backs, before.write_backs);
  const TableStats table_after = Value(at.table->Stats());
  EXPECT_EQ(table_after.promotes, table_before.promotes);
  EXPECT_EQ(table_after.spills, table_before.spills);
}

TEST(RowsWithAPendingGradientStayWhereTheyAre) {
  Fixture at;
  const auto cached = Lookup(*at.table, Range(0, 10));
  Accumulate(*at.table, cached);
  const auto others = Lookup(*at.table, Range(10, 20));  // finds no room
  EXPECT_EQ(at.table->OfCache().spills, 0);
  EXPECT_EQ(at.table->OfCache().promotes, 10);
  Accumulate(*at.table, others);
  EXPECT_EQ(Value(at.table->GradientRows()), 20);
  Step(*at.table);
  Ok(at.table->ClearGradient());
  Lookup(*at.table, Range(10, 20));
  EXPECT_EQ(at.table->OfCache().write_backs, 10);
  EXPECT_EQ(at.table->OfCache().rows, 10);
}

TEST(SlotsAreChangedWhereTheirRowsAre) {
  Fixture at(1);
  const int count =
      Value(at.table->AddSlot({.name = "count", .dtype = DType::kInt64, .shape = {}}));
  const int64_t n = kBlockRows + 6;  // six find no room on the device
  Lookup(*at.table, Range(0, n));
  Ids rows(n), values = Range(100, 100 + n), counts(n);
  Ok(at.table->Rows(Range(0, n).data(), n, rows.data()));
  Ok(at.table->AddToSlot(count, rows.data(), n, values.data()));
  Values sevens(n * kDim, 7), found(sevens.size());
  Ok(at.table->WriteSlot(1, rows.data(), n, Bytes(sevens)));
  EXPECT_EQ(at.table->OfCache().spills, 0);
  EXPECT_EQ(at.table->OfCache().write_backs, 0);
  Ok(at.table->ReadSlot(count, rows.data(), n, reinterpret_cast<std::byte*>(counts.data())));
  EXPECT_EQ(counts, values);
  EXPECT_EQ(at.table->OfCache().write_backs, kBlockRows);
  Ok(at.table->ReadSlot(1, rows.data(), n, reinterpret_cast<std::byte*>(found.data())));
  EXPECT_EQ(found, sevens);
  rows[0] = 12345;  // no row: nothing is changed
  EXPECT(at.table->AddToSlot(count, rows.data(), n, values.data()).code() == Code::kOutOfRange);
  Ok(at.table->ReadSlot(count, rows.data() + 1, n - 1,
                        reinterpret_cast<std::byte*>(counts.data())));
  counts.pop_back();
  EXPECT_EQ(counts, Range(101, 100 + n));
}

// A table with a block of rows on the device and the others in the store, and a slot that counts.
struct Counted {
  static constexpr int64_t kRows = 4 * kBlockRows;

  explicit Counted(std::shared_ptr<Space> device = EmulatedSpace())
      : space(std::move(device)),
        store(Open(directory.path(), BytesOf(1))),
        table(JoinCached(store, 1, "t", EmulatedDevice(HostKernels(), space))),
        slot(Value(table->AddSlot({.name = "count", .dtype = DType::kInt64, .shape = {}}))),
        rows(kRows) {
    Lookup(*table, Range(0, kRows));
    Ok(table->Rows(Range(0, kRows).data(), kRows, rows.data()));
    EXPECT(store->Commit(1, "").ok());
  }
  ~Counted() { store->Close(); }

  Status Add(const Ids& to) { return table->AddToSlot(slot, to.data(), Size(to), ones.data()); }
  Status Write(const Ids& to) {
    return table->WriteSlot(slot, to.data(), Size(to),
                            reinterpret_cast<const std::byte*>(ones.data()));
  }
  Ids Counts() const {
    Ids counts(kRows);
    Ok(table->ReadSlot(slot, rows.data(), kRows, reinterpret_cast<std::byte*>(counts.data())));
    return counts;
  }

  const TemporaryDirectory directory;
  const std::shared_ptr<Space> space;
  const std::shared_ptr<Store> store;
  const std::shared_ptr<CachedTable> table;
  const int slot;
  Ids rows;
  const Ids ones = Ids(kRows, 1);
};

TEST(WhatTheDeviceHasNoMemoryToChangeTheTableDoesNotChangeEither) {
  Counted at(EmulatedSpace(size_t{32} << 20));
  for (const size_t left : {1, 1000}) {  // nothing; or for the values, but not to work with them
    std::byte* const room = Value(at.space->Allocate(left, nullptr));
    std::vector<std::byte*> taken;
    for (size_t bytes = size_t{8} << 20; bytes > 0; bytes /= 2) {
      auto memory = at.space->Allocate(bytes, nullptr);
      for (; memory.ok(); memory = at.space->Allocate(bytes, nullptr)) {
        taken.push_back(memory.value());
      }
    }
    at.space->Free(room, nullptr);
    EXPECT(at.Add(at.rows).code() == Code::kOutOfMemory, left);
    EXPECT(at.Write(at.rows).code() == Code::kOutOfMemory, left);
    for (std::byte* memory : taken) at.space->Free(memory, nullptr);
    EXPECT_EQ(at.Counts(), Ids(Counted::kRows), left);
  }
}

class UnreadableDisk : public Env {
 public:
  ssize_t Preadv(int fd, const iovec* parts, int count, off_t offset) override {
    if (fails) return errno = EIO, -1;
    return Env::Preadv(fd, parts, count, offset);
  }
  bool fails = false;
};

TEST(WhatTheTableCannotReadToChangeTheDeviceDoesNotChangeEither) {
  UnreadableDisk disk;
  const ScopedEnv replaced(&disk);
  Counted at;
  const Ids some{at.rows[0], at.rows[kBlockRows]};  // on the device, and on the disk
  disk.fails = true;
  EXPECT(at.Add(some).code() == Code::kIo);
  EXPECT(at.Write(some).code() == Code::kIo);
  disk.fails = false;
  Ok(at.Add(some));  // the device shows what it has once it was changed
  Ids expected(Counted::kRows);
  expected[0] = expected[kBlockRows] = 1;
  EXPECT_EQ(at.Counts(), expected);
}

TEST(AStepOfRowsThatTheTableCannotReadIsNone) {
  UnreadableDisk disk;
  const ScopedEnv replaced(&disk);
  Counted at;
  const Ids ids = Range(0, 2 * kBlockRows);  // half of them find room on the device
  Accumulate(*at.table, Lookup(*at.table, ids));
  Lookup(*at.table, Range(Size(ids), Counted::kRows));  // the others go to the disk
  const Values before = Read(*at.table, ids);
  const auto step = [&] { return at.table->Step({.rule = Rule::kSgd, .step_size = 1}, {}); };
  disk.fails = true;
  EXPECT(step().code() == Code::kIo);
  disk.fails = false;
  EXPECT_EQ(Read(*at.table, ids), before);
  Ok(step());
  Values expected = before;
  for (float& value : expected) value -= 1;
  EXPECT_EQ(Read(*at.table, ids), expected);
}

TEST(AClearedTableForgetsWhichRowsHadAGradient) {
  Fixture at;
  Accumulate(*at.table, Lookup(*at.table, Range(0, 20)));  // ten of them in the table
  Ok(at.table->Clear());
  EXPECT(!Value(at.table->HasGradient()));
  const int64_t promotes = at.table->OfCache().promotes;
  Lookup(*at.table, Range(0, 10));
  Lookup(*at.table, Range(10, 20));
  EXPECT_EQ(at.table->OfCache().promotes, promotes + 20);
}

TEST(ABatchOfBeforeATableWasClearedTakesNoGradient) {
  Fixture at;
  const auto batch = Lookup(*at.table, Range(0, 10));
  Ok(at.table->Clear());
  Lookup(*at.table, Range(100, 110));  // in the rows of those
  Accumulate(*at.table, batch);
  EXPECT_EQ(Value(at.table->GradientRows()), 0);
}

TEST(WhatIsOnTheDeviceIsNotReadFromTheStore) {
  Fixture at(4, BytesOf(1));
  Lookup(*at.table, Range(0, 20));
  EXPECT(at.store->Commit(1, "").ok());
  Lookup(*at.table, Range(0, 20));
  const int64_t reads = at.store->Stats().log.reads;
  for (int i = 0; i < 5; ++i) Train(*at.table, Range(0, 20));
  EXPECT_EQ(at.store->Stats().log.reads, reads);
}

TEST(AStoreCanBeOpenedAgainWithoutADevice) {
  const TemporaryDirectory directory;
  Content last;
  {
    const auto store = Open(directory.path(), 1 << 20);
    const auto table = JoinCached(store, 3);
    for (int i = 0; i < 5; ++i) Train(*table, Range(3 * i, 3 * i + 30));
    EXPECT(store->Commit(1, "").ok());
    last = ContentOf(*table);
    Train(*table, Range(0, 50));  // is lost
    store->Close();
  }
  {
    const auto store = Open(directory.path(), 1 << 20);
    EXPECT(testing::ContentOf(*Join(store)) == last);
    store->Close();
  }
  const auto store = Open(directory.path(), 1 << 20);
  const auto table = JoinCached(store, 1);
  EXPECT(ContentOf(*table) == last);
  EXPECT(JoinCached(store, 1) == table);
  const Status other = CachedTable::Make(Options(), store, EmulatedDevice(), 12345).status();
  EXPECT(other.message().find("on emulated") != std::string::npos, other.message());
  store->Close();
}

TEST(TablesAreCommittedAtOneMoment) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), 1 << 20);
  const auto one = JoinCached(store, 2, "one"), two = JoinCached(store, 2, "two");
  const auto plain = Join(store, "plain");
  AddStates(*plain);
  Train(*one, Range(0, 20));
  Train(*two, Range(5, 25));
  Ok(testing::Train(*plain, Range(0, 9), {1, 2}));
  const Content first = ContentOf(*one), second = ContentOf(*two),
                third = testing::ContentOf(*plain);
  EXPECT(store->Commit(1, "").ok());
  store->Close();
  const auto again = Open(directory.path(), 1 << 20);
  EXPECT(testing::ContentOf(*Join(again, "one")) == first);
  EXPECT(testing::ContentOf(*Join(again, "two")) == second);
  EXPECT(testing::ContentOf(*Join(again, "plain")) == third);
  again->Close();
}

TEST(ACutStaysAsItWasWhileTheDeviceGoesOn) {
  Fixture at(3);
  Train(*at.table, Range(0, 20));
  Ok(at.table->Track(true));
  Train(*at.table, Range(0, 2));
  const Content before = ContentOf(*at.table);
  {
    const auto cut = Value(at.table->TakeCut(true, 1 << 20));
    EXPECT_EQ(cut->rows(), 2);  // not what was dirty when tracking began
    cut->Close();
  }
  const auto cut = Value(at.table->TakeCut(false, 1 << 20));
  Train(*at.table, Range(0, 12));
  const Ids gone{3, 15};
  EXPECT_EQ(Value(at.table->Evict(gone.data(), 2)), 2);
  Train(*at.table, Range(30, 45));  // spills those
  std::vector<RowOfId> rows;
  for (size_t i = 0; i < before.ids.size(); ++i) {
    rows.push_back({before.ids[i], static_cast<Row>(before.rows[i])});
  }
  std::vector<RowOfId> listed;
  Ok(cut->List(1, 0, 1, &listed));
  EXPECT_EQ(listed.size(), rows.size());
  std::vector<Values> slots(3, Values(rows.size() * kDim));
  std::vector<std::byte*> addresses;
  for (Values& slot : slots) addresses.push_back(Bytes(slot));
  Ok(cut->Gather(rows.data(), static_cast<int64_t>(rows.size()), addresses));
  EXPECT(slots == before.slots);
  cut->Close();
  const auto delta = Value(at.table->TakeCut(true, 1 << 20));
  EXPECT_EQ(delta->rows(), 11 + 15);
  EXPECT_EQ(delta->deleted(), gone);
}

#if !defined(RECIS_SYSTEM_LMDB)

TEST(ACommitThatFailsIsMadeAgain) {
  class : public Env {
   public:
    ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset) override {
      if (full) return errno = ENOSPC, -1;
      return Env::Pwritev(fd, parts, count, offset);
    }
    bool full = false;
  } disk;
  const ScopedEnv replaced(&disk);
  const TemporaryDirectory directory;
  Content last;
  {
    const auto store = Open(directory.path(), BytesOf(4));
    const auto table = JoinCached(store, 2);
    Train(*table, Range(0, 15));
    EXPECT(store->Commit(1, "").ok());
    disk.full = true;
    Train(*table, Range(5, 15));
    EXPECT(store->Commit(2, "").status().code() == Code::kIo);
    EXPECT_EQ(store->Epochs().back().step, 1);
    Train(*table, Range(0, 15));
    last = ContentOf(*table);
    disk.full = false;
    EXPECT(store->Commit(3, "").ok());
    store->Close();
  }
  const auto again = Open(directory.path(), BytesOf(4));
  EXPECT(testing::ContentOf(*Join(again)) == last);
  again->Close();
}

#endif

TEST(WhatTheDeviceHasNoMemoryForTheTableAnswers) {
  constexpr int64_t kWide = 256, kBatch = 1000;
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), int64_t{1} << 30);
  TableOptions options = Options();
  options.shape = {kWide};
  const auto memory = Table::Make(options).value();
  const auto table = Value(CachedTable::Make(
      options, store, EmulatedDevice(HostKernels(), EmulatedSpace(size_t{24} << 20)),
      int64_t{1} << 30));
  Values out(kWide * kBatch), expected(kWide * kBatch);
  for (int64_t first = 0; first < 20 * kBatch; first += kBatch) {
    const Ids ids = Range(first, first + kBatch);
    Ok(table->Lookup(ids.data(), kBatch, nullptr, Bytes(out)).status());
    Ok(memory->Lookup(ids.data(), kBatch, nullptr, Bytes(expected), false).status());
    EXPECT(out == expected, first);
  }
  const CacheStats stats = table->OfCache();
  EXPECT_LT(2 * kBatch, stats.rows);
  EXPECT_LT(stats.rows, 20 * kBatch);
  store->Close();
}

TEST(MoreThanIsCopiedAtATimeComesPieceByPiece) {
  constexpr int64_t kWide = 4096, kRows = 1200;  // three pieces
  TableOptions options = Options();
  options.shape = {kWide};
  const Ids ids = Range(0, kRows);
  Values out(kWide * kRows), expected(kWide * kRows);
  Ok(Table::Make(options)
         .value()
         ->Lookup(ids.data(), kRows, nullptr, Bytes(expected), false)
         .status());
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const TemporaryDirectory directory;
    const auto store = Open(directory.path(), int64_t{1} << 30);
    const auto device = LateDevice(seed);
    const auto table = Value(CachedTable::Make(options, store, device, 1));
    Ok(table->Lookup(ids.data(), kRows, nullptr, Bytes(out)).status());
    Ok(device->space->Wait(StreamInUse()));
    EXPECT(out == expected, seed);
    store->Close();
  }
}

TEST(TheDeviceTakesNoMemoryForMoreThanItsPart) {
  constexpr int64_t kWide = 4096, kRows = 200;
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), int64_t{1} << 30);
  TableOptions options = Options();
  options.shape = {kWide};
  // 8 MiB for copies, 4 for the records, and not as many again.
  const auto device = EmulatedDevice(HostKernels(), EmulatedSpace(size_t{15} << 20));
  const auto table = Value(CachedTable::Make(options, store, device, kRows * kWide * 4));
  Values out(kWide * kRows);
  for (int64_t round = 0; round < 6; ++round) {
    const Ids ids = Range(round * kRows, (round + 1) * kRows);
    Ok(table->Lookup(ids.data(), kRows, nullptr, Bytes(out)).status());
    EXPECT_EQ(table->OfCache().promotes, (round + 1) * kRows);
  }
  store->Close();
}

TEST(ABatchFarLargerThanTheDevicesPartTakesNoRoomThereForItsGradients) {
  constexpr int64_t kWide = 1024, kRows = 20, kBatch = 4000;  // 16 MiB of gradients
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), int64_t{1} << 30);
  TableOptions options = Options();
  options.shape = {kWide};
  const auto device = EmulatedDevice(HostKernels(), EmulatedSpace(size_t{12} << 20));
  const auto table = Value(CachedTable::Make(options, store, device, kRows * kWide * 4));
  Values out(kWide * kBatch);
  const Ids ids = Range(0, kBatch);
  const auto batch = Value(table->Lookup(ids.data(), kBatch, nullptr, Bytes(out)));
  Ok(table->Accumulate(*batch, out.data(), DType::kFloat32, false, 1));
  EXPECT_EQ(Value(table->GradientRows()), kBatch);
  store->Close();
}

TEST(ACachedTableOfAClosedStoreIsOfNoUse) {
  Fixture at;
  const Ids ids = Range(0, 3);
  Accumulate(*at.table, Lookup(*at.table, ids));
  at.store->Close();
  Values out(3 * kDim);
  EXPECT(at.table->Read(ids.data(), 3, Bytes(out)).code() == Code::kUnavailable);
  EXPECT(at.table->Lookup(ids.data(), 3, nullptr, Bytes(out)).status().code() ==
         Code::kUnavailable);
  EXPECT(at.table->Step({.rule = Rule::kSgd}, {}).code() == Code::kUnavailable);
  EXPECT(at.table->Evict(ids.data(), 3).status().code() == Code::kUnavailable);
  EXPECT(at.table->Clear().code() == Code::kUnavailable);
  EXPECT(at.table->TakeCut(false, 1).status().code() == Code::kUnavailable);
}

TEST(ThreadsLookUpTrainCommitAndEvictATableOnADevice) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), BytesOf(10));
  const auto one = JoinCached(store, 6, "one"), two = JoinCached(store, 6, "two");
  std::vector<std::thread> threads;
  for (const auto& table : {one, two}) {
    threads.emplace_back([&, table] {
      for (int64_t i = 0; i < 60; ++i) {
        Train(*table, Range(i % 40, i % 40 + 25));
        const Ids gone = Range(i, i + 3);
        if (i % 5 == 0) Value(table->Evict(gone.data(), 3));
      }
    });
  }
  threads.emplace_back([&] {
    for (int64_t i = 0; i < 40; ++i) {
      Read(*one, Range(0, 60));
      Train(*two, Range(20, 50));
      const auto prefetched = Value(one->Prefetch(Range(0, 40).data(), 40));
      Values out(40 * kDim);
      Value(one->Lookup(*prefetched, nullptr, Bytes(out)));
      Value(one->Stats());
      Value(two->TakeCut(false, 1 << 20))->Abandon();
    }
  });
  threads.emplace_back([&] {
    for (int64_t i = 0; i < 10; ++i) EXPECT(store->Commit(i, "").ok());
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT(store->Commit(11, "").ok());
  const Content first = ContentOf(*one), second = ContentOf(*two);
  store->Close();
  const auto again = Open(directory.path(), 1 << 20);
  EXPECT(testing::ContentOf(*Join(again, "one")) == first);
  EXPECT(testing::ContentOf(*Join(again, "two")) == second);
  again->Close();
}

}  // namespace
}  // namespace recis::testing
