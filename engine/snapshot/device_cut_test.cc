// Cuts of a table on a device, written while it is trained: the files that its twin in memory, with
// the same history, writes at that moment.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <random>
#include <thread>

#include "base/thread_pool.h"
#include "cold/log_testing.h"
#include "device/device_kernels_testing.h"
#include "device/late_device_testing.h"
#include "snapshot/part_writer.h"
#include "table/device_table_testing.h"

namespace recis::testing {
namespace {

constexpr uint32_t kSlices = 64;
constexpr uint32_t kPartSlices = 16;
constexpr int64_t kPoolBytes = int64_t{64} << 20;

// The file of a part, and what its writer says of it.
struct Part {
  std::string bytes;
  std::vector<uint64_t> sums;
  bool operator==(const Part&) const = default;
};

Part WritePartOf(Cut& cut, uint32_t begin) {
  const TemporaryDirectory folder;
  Part part;
  part.sums = Value(WritePart(cut, folder / "part", 0, {kSlices, begin, begin + kPartSlices}));
  std::ifstream file(folder / "part", std::ios::binary);
  part.bytes.assign(std::istreambuf_iterator<char>(file), {});
  return part;
}

std::vector<uint32_t> Begins() {
  std::vector<uint32_t> begins;
  for (uint32_t begin = 0; begin < kSlices; begin += kPartSlices) begins.push_back(begin);
  return begins;
}

// Saves the table in memory at once, and looks at what a cut of the other one says of itself.
std::map<uint32_t, Part> Expected(Table& table, const Cut& on_device, bool delta, bool closed) {
  const std::shared_ptr<Cut> cut = Value(table.TakeCut(delta, kPoolBytes));
  EXPECT_EQ(on_device.rows(), cut->rows());
  EXPECT_EQ(on_device.deleted(), cut->deleted());
  std::vector<int64_t> counts(kSlices), device_counts(kSlices);
  Ok(cut->CountSlices(kSlices, counts.data()));
  Ok(on_device.CountSlices(kSlices, device_counts.data()));
  EXPECT_EQ(device_counts, counts);
  std::map<uint32_t, Part> parts;
  for (const uint32_t begin : Begins()) parts[begin] = WritePartOf(*cut, begin);
  if (closed) cut->Close();
  return parts;
}

// Takes cuts, whole ones and deltas, and writes them while random calls are made.
void SaveWhileItChanges(const Setting& setting, const std::shared_ptr<Device>& device,
                        uint64_t seed, int rounds) {
  DevicePair pair(setting, device, seed);
  std::mt19937_64 random(seed);
  bool tracked = false;
  for (int round = 0; round < rounds; ++round) {
    pair.Run(static_cast<int>(random() % 12));
    if (random() % 3 == 0) {
      tracked = !tracked || random() % 4 != 0;
      Ok(pair.table().Track(tracked));
      Ok(pair.on_device().Track(tracked));
      pair.Run(static_cast<int>(random() % 4));
    }
    const bool delta = tracked && random() % 3 != 0, closed = random() % 3 != 0;
    const int64_t listed_rows = random() % 2 == 0 ? 7 : Cut::kListedRows;
    const auto cut = Value(pair.on_device().TakeCut(delta, kPoolBytes, listed_rows));
    const std::map<uint32_t, Part> parts = Expected(pair.table(), *cut, delta, closed);
    std::vector<uint32_t> begins = Begins();
    std::shuffle(begins.begin(), begins.end(), random);
    if (!closed) begins.resize(random() % begins.size());
    for (const uint32_t begin : begins) {
      pair.Run(static_cast<int>(random() % 5), /*saved=*/true);
      EXPECT(WritePartOf(*cut, begin) == parts.at(begin), seed, round, begin);
    }
    if (closed) cut->Close();
  }
}

const RuleParams kAdam{
    .rule = Rule::kAdam, .step_size = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};

void TryAll(const std::shared_ptr<Device>& device) {
  SetThreadCount(4);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    SaveWhileItChanges({.params = kAdam}, device, seed, 8);
  }
  SaveWhileItChanges({.dtype = DType::kFloat16, .dim = 7, .params = kAdam}, device, 8, 8);
  SaveWhileItChanges({.dtype = DType::kInt8, .distribution = Distribution::kConstant}, device, 9,
                     8);
}

TEST(AFileIsThatOfTheTableInMemory) { TryAll(EmulatedDevice()); }

TEST(ALateDeviceWritesTheSameFile) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    SaveWhileItChanges({.dim = 3, .params = kAdam, .streams = 3}, LateDevice(seed), seed, 8);
  }
}

TEST(OneThreadALaneWritesTheSameFile) {
  SaveWhileItChanges({.dim = 3, .ids = 10, .range = 12}, EmulatedDevice(LanesKernels()), 1, 4);
}

// Where there is one.
TEST(AGpuWritesTheSameFile) {
  if (auto device = CudaDevice(0); device.ok()) TryAll(device.value());
}

// Parts by several threads while another one trains, with little room for what it changes.
TEST(ThreadsSaveACutWhileAnotherTrains) {
  SetThreadCount(2);
  DevicePair pair({.dim = 3, .params = kAdam, .ids = 20}, EmulatedDevice(), 5);
  Ok(pair.table().Track(true));
  Ok(pair.on_device().Track(true));
  for (int round = 0; round < 8; ++round) {
    pair.Run(6);
    const bool delta = round % 3 != 0;
    const auto cut = Value(pair.on_device().TakeCut(delta, round % 2 == 0 ? 300 : kPoolBytes));
    const std::map<uint32_t, Part> parts = Expected(pair.table(), *cut, delta, /*closed=*/true);
    std::atomic<bool> stop{false};
    std::atomic<int> failures{0};
    const auto beside = [&failures](const std::function<void()>& body) {
      return std::thread([&failures, body] {
        try {
          body();
        } catch (const Failure&) {
          ++failures;
        }
      });
    };
    std::thread trainer = beside([&] {
      while (!stop) pair.Run(1, /*saved=*/true);
    });
    std::vector<std::thread> savers;
    for (const uint32_t begin : Begins()) {
      savers.push_back(
          beside([&, begin] { EXPECT(WritePartOf(*cut, begin) == parts.at(begin), round); }));
    }
    for (std::thread& saver : savers) saver.join();
    cut->Close();
    stop = true;
    trainer.join();
    EXPECT_EQ(failures.load(), 0);
  }
}

// A table of so many rows is read piece by piece.
void SaveLarge(int64_t rows, int64_t dim) {
  const TableOptions options{"t", DType::kFloat32, {dim}, 5, {Distribution::kUniform, 0, 1, 0, 1}};
  const auto table = Value(Table::Make(options));
  const auto on_device = Value(DeviceTable::Make(options, EmulatedDevice()));
  Ids ids(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) ids[i] = i * 7919 - 5000;
  Bytes out(static_cast<size_t>(rows * dim) * sizeof(float));
  Ok(table->Lookup(ids.data(), rows, nullptr, out.data(), false).status());
  Ok(on_device->Lookup(ids.data(), rows, nullptr, out.data()).status());
  const auto cut = Value(on_device->TakeCut(false, kPoolBytes));
  const std::map<uint32_t, Part> parts = Expected(*table, *cut, false, /*closed=*/true);
  // Most are changed, and kept in pieces; the others are read so.
  std::fill(out.begin(), out.end(), std::byte{0x3f});
  Ok(on_device->Insert(ids.data(), rows * 3 / 4, out.data()).status());
  for (const auto& [begin, part] : parts) EXPECT(WritePartOf(*cut, begin) == part, begin);
}

TEST(WideRecordsAreReadSomeAtATime) { SaveLarge(600, 4096); }
TEST(ADirectoryIsReadSomeAtATime) { SaveLarge(600000, 1); }

// Every kind of change, on a table of the ids 1 and 2.
class Changed {
 public:
  static constexpr int kKinds = 7;

  Changed() {
    Ok(table_->AddSlot({.name = "count", .dtype = DType::kInt64, .shape = {}}).status());
    Ok(table_->Insert(kIds, 2, bytes_).status());
    Ok(table_->Rows(kIds, 1, &row_));
    Ok(table_->AccumulateRows(&row_, 1, kValues, DType::kFloat32));
  }
  DeviceTable& table() { return *table_; }

  Status Apply(int kind) {
    switch (kind) {
      case 0:
        return table_->Insert(kIds, 2, bytes_ + sizeof(float)).status();
      case 1:
        return table_->Restore(kIds, 2, {0}, {bytes_ + sizeof(float)});
      case 2:
        return table_->Evict(kIds, 2).status();
      case 3:
        return table_->WriteSlot(0, &row_, 1, bytes_ + sizeof(float));
      case 4:
        return table_->AddToSlot(1, &row_, 1, kIds);
      case 5:
        return table_->Step({.rule = Rule::kSgd, .step_size = 1}, {});
      default:
        return table_->RestoreRecords(kIds, 2, bytes_).status();
    }
  }

 private:
  static constexpr int64_t kIds[] = {1, 2};
  static constexpr float kValues[8] = {5, 6, 7};  // two records

  const std::byte* const bytes_ = reinterpret_cast<const std::byte*>(kValues);
  const std::shared_ptr<DeviceTable> table_ =
      Value(DeviceTable::Make({"t", DType::kFloat32, {1}, 5, {}}, EmulatedDevice()));
  int64_t row_ = 0;
};

TEST(EachChangeKeepsWhatItOverwrites) {
  for (int kind = 0; kind < Changed::kKinds; ++kind) {
    Changed changed;
    const auto at_once = Value(changed.table().TakeCut(false, kPoolBytes));
    const Part expected = WritePartOf(*at_once, 0);
    at_once->Close();
    const auto later = Value(changed.table().TakeCut(false, kPoolBytes));
    Ok(changed.Apply(kind));
    EXPECT(WritePartOf(*later, 0) == expected, kind);
    later->Close();
    const auto after = Value(changed.table().TakeCut(false, kPoolBytes));
    EXPECT(WritePartOf(*after, 0) != expected, kind);
  }
}

// One that finds the pool full goes on when the cut is closed, and not before.
TEST(EachChangeWaitsForRoom) {
  for (int kind = 0; kind < Changed::kKinds; ++kind) {
    Changed changed;
    const auto cut = Value(changed.table().TakeCut(false, 0));
    Ok(changed.Apply(3));  // fills the pool
    std::atomic<bool> done{false};
    Status status;
    std::thread trainer([&] {
      status = changed.Apply(kind);
      done = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const bool early = done;
    const int64_t id = 1;
    float read;
    Ok(changed.table().Read(&id, 1, reinterpret_cast<std::byte*>(&read)));  // does not wait
    cut->Close();
    trainer.join();
    EXPECT(!early, kind);
    Ok(status);
  }
}

TEST(WhatIsRefusedWhileADeviceIsRead) {
  DevicePair pair({}, EmulatedDevice(), 3);
  pair.Run(5);
  DeviceTable& table = pair.on_device();
  const auto cut = Value(table.TakeCut(false, kPoolBytes));
  EXPECT(table.Clear().code() == Code::kUnavailable);
  EXPECT(table.TakeCut(false, kPoolBytes).status().code() == Code::kUnavailable);
  EXPECT(table.TakeCut(true, kPoolBytes).status().code() == Code::kUnavailable);
  cut->Close();
  EXPECT(table.TakeCut(true, kPoolBytes).status().code() == Code::kInvalidArgument);
  Ok(table.Clear());
}

}  // namespace
}  // namespace recis::testing
