// What a table on a device asks of its device: when it is waited for, on which stream it works, and
// what happens when memory runs out.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "device/space_testing.h"
#include "table/device_table.h"

namespace recis {
namespace {

using testing::WatchedSpace;
using Ids = std::vector<int64_t>;
using Values = std::vector<float>;

struct Watched {
  explicit Watched(int64_t dim, size_t bytes = size_t{1} << 40)
      : space(std::make_shared<WatchedSpace>(bytes)),
        table(DeviceTable::Make({.name = "t", .shape = {dim}, .block_rows = 5, .draw = {}},
                                EmulatedDevice(HostKernels(), space))
                  .value()) {}
  std::shared_ptr<WatchedSpace> space;
  std::shared_ptr<DeviceTable> table;
};

Ids Range(int64_t begin, int64_t end) {
  Ids ids;
  for (int64_t id = begin; id < end; ++id) ids.push_back(id);
  return ids;
}

TEST(ALookupWaitsForNothingWhileThereIsRoom) {
  Watched at(2);
  const Ids ids = Range(0, 1000);
  Values out(2000), gradient(2000, 1);
  const auto train = [&] {
    auto batch =
        at.table->Lookup(ids.data(), 1000, nullptr, reinterpret_cast<std::byte*>(out.data()));
    EXPECT(batch.ok());
    EXPECT(at.table->Accumulate(*batch.value(), gradient.data(), DType::kFloat32, false, 1).ok());
    EXPECT(at.table->HasGradient().value());
    EXPECT(at.table->Step({.rule = Rule::kSgd, .step_size = 1}, {}).ok());
    EXPECT(at.table->ClearGradient().ok());
  };
  train();
  at.space->waits = 0;
  // The host believes that each call adds a thousand rows, and asks when its room is used up.
  for (int i = 0; i < 100; ++i) train();
  EXPECT_LE(at.space->waits, 100 / 3);
  at.space->waits = 0;
  for (int i = 0; i < 100; ++i) {
    EXPECT(at.table->Read(ids.data(), 1000, reinterpret_cast<std::byte*>(out.data())).ok());
  }
  EXPECT_EQ(at.space->waits, 0);
  EXPECT_EQ(out[0], -101.0f);
  EXPECT_EQ(at.table->size().value(), 1000);
}

TEST(ACallOnAnotherStreamFollowsThoseBeforeIt) {
  Watched at(2);
  char streams[2];
  const Stream first = &streams[0], second = &streams[1];
  const auto clear = [&] { EXPECT(at.table->ClearGradient().ok()); };
  clear();
  EXPECT(at.space->orders.empty());
  std::thread([&] {
    UseStream(first);
    clear();
    clear();
  }).join();
  UseStream(second);
  clear();
  UseStream(nullptr);
  clear();
  const std::vector<std::pair<Stream, Stream>> expected = {
      {nullptr, first}, {first, second}, {second, nullptr}};
  EXPECT(at.space->orders == expected);
}

// Of a thousand ids.
void Train(DeviceTable& table) {
  const Ids ids = Range(0, 1000);
  Values out(2000), gradient(2000, 1);
  auto batch = table.Lookup(ids.data(), 1000, nullptr, reinterpret_cast<std::byte*>(out.data()));
  EXPECT(batch.ok());
  EXPECT(table.Accumulate(*batch.value(), gradient.data(), DType::kFloat32, false, 1).ok());
  EXPECT(table.Step({.rule = Rule::kSgd, .step_size = 1}, {}).ok());
  EXPECT(table.ClearGradient().ok());
}

TEST(ABatchOfBeforeATableWasClearedTakesNoGradient) {
  Watched at(2);
  Values out(20);
  const auto lookup = [&](int64_t first) {
    const Ids ids = Range(first, first + 10);
    return at.table->Lookup(ids.data(), 10, nullptr, reinterpret_cast<std::byte*>(out.data()))
        .value();
  };
  const auto batch = lookup(0);
  EXPECT(at.table->Clear().ok());
  lookup(100);  // in the rows of those
  EXPECT(at.table->Accumulate(*batch, out.data(), DType::kFloat32, false, 1).ok());
  EXPECT_EQ(at.table->GradientRows().value(), 0);
}

TEST(NotingWhatChangesWaitsForNothing) {
  Watched at(2);
  EXPECT(at.table->Track(true).ok());
  Train(*at.table);
  at.space->waits = 0;
  for (int i = 0; i < 100; ++i) Train(*at.table);
  EXPECT_LE(at.space->waits, 100 / 3);
  EXPECT_EQ(at.table->TakeCut(true, 0).value()->rows(), 1000);
}

TEST(ALookupDoesNotWaitForACut) {
  Watched at(2);
  Train(*at.table);
  const auto cut = at.table->TakeCut(false, 0).value();
  Train(*at.table);  // fills the pool
  at.space->waits = 0;
  const Ids ids = Range(0, 1000);
  Values out(2000);
  for (int i = 0; i < 100; ++i) {
    EXPECT(
        at.table->Lookup(ids.data(), 1000, nullptr, reinterpret_cast<std::byte*>(out.data())).ok());
  }
  EXPECT_LE(at.space->waits, 100 / 3);
}

TEST(ATableGrowsToManyTimesItsFirstSize) {
  Watched at(16);
  Values out(16 * 5000);
  for (int64_t first = 0; first < 100000; first += 5000) {
    const Ids ids = Range(first, first + 5000);
    EXPECT(
        at.table->Lookup(ids.data(), 5000, nullptr, reinterpret_cast<std::byte*>(out.data())).ok());
    // Steady eviction fills the index with marks, which a rebuild drops.
    const Ids gone = Range(first, first + 2500);
    EXPECT_EQ(at.table->Evict(gone.data(), 2500).value(), 2500);
  }
  EXPECT_EQ(at.table->size().value(), 50000);
  const Ids all = Range(0, 100000);
  Ids rows(all.size());
  EXPECT(at.table->Rows(all.data(), 100000, rows.data()).ok());
  for (int64_t i = 0; i < 100000; ++i) EXPECT_EQ(rows[i] >= 0, i % 5000 >= 2500, i);
  EXPECT_LE(at.table->Stats().value().index_bytes, 8 << 20);
}

TEST(ACutThatThereIsNoMemoryForIsNone) {
  Watched at(2, size_t{16} << 20);
  Train(*at.table);
  for (size_t bytes = 1 << 20; bytes > 0; bytes /= 2) {
    while (at.space->Allocate(bytes, nullptr).ok()) continue;
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT(at.table->TakeCut(false, 0).status().code() == Code::kOutOfMemory);
  }
  EXPECT(at.table->Track(true).ok());
  EXPECT(at.table->Clear().code() == Code::kOutOfMemory);
}

TEST(WhatThereIsNoMemoryForChangesNothing) {
  // Room for the table and a little more.
  Watched at(256, size_t{14} << 20);
  const Ids few = Range(0, 100), many = Range(0, 20000);
  Values out(256 * 100), more(256 * 20000, 1);
  const auto lookup = [&](const Ids& ids, Values& values) {
    return at.table
        ->Lookup(ids.data(), static_cast<int64_t>(ids.size()), nullptr,
                 reinterpret_cast<std::byte*>(values.data()))
        .status();
  };
  EXPECT_EQ(lookup(few, out).message(), "");
  const TableStats before = at.table->Stats().value();
  EXPECT(lookup(many, more).code() == Code::kOutOfMemory);
  EXPECT(at.table->Insert(many.data(), 20000, reinterpret_cast<std::byte*>(more.data()))
             .status()
             .code() == Code::kOutOfMemory);
  Slot slot;
  slot.name = "wide";
  slot.shape = {1 << 20};
  EXPECT(at.table->AddSlot(slot).status().code() == Code::kOutOfMemory);
  const TableStats after = at.table->Stats().value();
  EXPECT_EQ(after.rows, before.rows);
  EXPECT_EQ(after.lookups, before.lookups);
  EXPECT_EQ(at.table->Slots().size(), 1u);
  EXPECT_EQ(lookup(few, out).message(), "");
  EXPECT_EQ(at.table->size().value(), 100);
}

}  // namespace
}  // namespace recis
