// Cuts that several threads save while others change the table, and who waits for whom.

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <thread>

#include "base/thread_pool.h"
#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

constexpr uint32_t kSlices = 64;
constexpr int kSavers = 4;

using ById = std::map<int64_t, Values>;

ById EmbeddingsOf(const Table& table) {
  const Content content = ContentOf(table);
  const int64_t dim = DimOf(table);
  ById by_id;
  for (size_t i = 0; i < content.ids.size(); ++i) {
    const float* value = content.slots[0].data() + static_cast<int64_t>(i) * dim;
    by_id[content.ids[i]] = Values(value, value + dim);
  }
  return by_id;
}

ById EmbeddingsOf(const Cut& cut, uint32_t begin, uint32_t end) {
  std::vector<RowOfId> rows;
  Ok(cut.List(kSlices, begin, end, &rows));
  std::vector<Values> slots;
  std::vector<std::byte*> addresses;
  for (const Slot& slot : cut.slots()) slots.emplace_back(rows.size() * slot.count);
  for (Values& values : slots) addresses.push_back(reinterpret_cast<std::byte*>(values.data()));
  Ok(cut.Gather(rows.data(), static_cast<int64_t>(rows.size()), addresses));
  const int64_t dim = cut.slots()[0].count;
  ById by_id;
  for (size_t i = 0; i < rows.size(); ++i) {
    const float* value = slots[0].data() + static_cast<int64_t>(i) * dim;
    by_id[rows[i].id] = Values(value, value + dim);
  }
  return by_id;
}

// Saves slices from several threads, each some of its own, as a part writer does.
ById SaveWithThreads(Cut& cut) {
  std::vector<ById> found(kSavers);
  std::atomic<uint32_t> next{0};
  std::atomic<int> failures{0};
  std::vector<std::thread> savers;
  for (int k = 0; k < kSavers; ++k) {
    savers.emplace_back([&, k] {
      try {
        for (uint32_t slice; (slice = next++) < kSlices;) {
          found[k].merge(EmbeddingsOf(cut, slice, slice + 1));
          cut.Done(kSlices, slice, slice + 1);
        }
      } catch (const Failure&) {
        ++failures;
      }
    });
  }
  for (std::thread& saver : savers) saver.join();
  EXPECT_EQ(failures.load(), 0);
  ById all;
  for (ById& some : found) all.merge(some);
  return all;
}

void SaveWhileItChanges(const std::shared_ptr<Table>& table, const std::function<void()>& beside) {
  const std::vector<int> states = AddStates(*table);
  Workload workload(11);
  workload.Run(*table, states, 30);
  Ok(table->Track(true));
  Value(table->TakeCut(false, 0))->Close();
  ById saved = EmbeddingsOf(*table);
  for (int round = 0; round < 8; ++round) {
    workload.Run(*table, states, 2);
    const ById expected = EmbeddingsOf(*table);
    // Little room and enough of it, whole cuts and deltas.
    const bool delta = round % 4 != 0;
    const auto cut = Value(table->TakeCut(delta, round % 2 == 0 ? 500 : 1 << 20));
    std::atomic<bool> stop{false};
    std::atomic<int> failures{0};
    std::thread trainer([&] {
      try {
        while (!stop) workload.Run(*table, states, 1), beside();
      } catch (const Failure&) {
        ++failures;
      }
    });
    const ById found = SaveWithThreads(*cut);
    if (!delta) saved.clear();
    for (const int64_t id : cut->deleted()) saved.erase(id);
    for (const auto& [id, values] : found) saved[id] = values;
    cut->Close();
    stop = true;
    trainer.join();
    EXPECT_EQ(failures.load(), 0);
    EXPECT_EQ(static_cast<int64_t>(found.size()), cut->rows(), round);
    EXPECT(saved == expected, round);
  }
}

TEST(ThreadsSaveACutInMemoryWhileAnotherTrains) {
  SetThreadCount(2);
  SaveWhileItChanges(MakeTable({3}), [] {});
}

TEST(ThreadsSaveACutOfAStoreWhileAnotherTrainsAndCommits) {
  SetThreadCount(2);
  const TemporaryDirectory folder;
  StoreOptions options;
  options.log = At(folder.path());
  options.hot_bytes = 3 * 5 * 48;  // blocks of five records
  const std::shared_ptr<Store> store = Value(Store::Open(options));
  const auto table = Value(Table::Make({.name = "t", .shape = {3}, .draw = {}}, store));
  int64_t step = 0;
  SaveWhileItChanges(table, [&] {
    if (++step % 16 == 0) Ok(store->Commit(step, "").status());
  });
  EXPECT_LT(0, table->Stats().spills);
  store->Close();
}

// A change that finds the pool full goes on when `release` was called, and not before.
void WaitsUntil(const std::function<void(std::shared_ptr<Cut>&)>& release) {
  const auto table = MakeTable({3});
  Insert(*table, {1, 2}, {1, 1, 1, 2, 2, 2});
  auto cut = Value(table->TakeCut(false, 0));
  Insert(*table, {1}, {5, 5, 5});  // fills the pool
  std::atomic<bool> changed{false};
  std::thread trainer([&] {
    Insert(*table, {2}, {6, 6, 6});
    changed = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const bool early = changed;
  const Values meanwhile = Read(*table, {1, 2});  // is not kept waiting
  release(cut);
  trainer.join();
  EXPECT(!early);
  EXPECT_EQ(meanwhile, Values({5, 5, 5, 2, 2, 2}));
  EXPECT_EQ(Read(*table, {1, 2}), Values({5, 5, 5, 6, 6, 6}));
}

TEST(AChangeWaitsUntilTheSliceIsSaved) {
  WaitsUntil([](std::shared_ptr<Cut>& cut) { cut->Done(kSlices, 1, 2); });
}
TEST(AChangeWaitsUntilTheCutIsClosed) {
  WaitsUntil([](std::shared_ptr<Cut>& cut) { cut->Close(); });
}
TEST(AChangeWaitsUntilTheCutIsAbandoned) {
  WaitsUntil([](std::shared_ptr<Cut>& cut) { cut->Abandon(); });
}
TEST(AChangeWaitsUntilTheCutIsGone) {
  WaitsUntil([](std::shared_ptr<Cut>& cut) { cut.reset(); });
}

}  // namespace
}  // namespace recis::testing
