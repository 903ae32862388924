// A table on a device and its twin in the host's memory, for tests: random calls of both.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "table/device_table.h"
#include "table/table_testing.h"

namespace recis::testing {

using Bytes = std::vector<std::byte>;

struct Setting {
  DType dtype = DType::kFloat32;
  int64_t dim = 5;
  Distribution distribution = Distribution::kNormal;
  RuleParams params{};
  int64_t ids = 60;    // in a call
  int64_t range = 80;  // of ids
  int streams = 1;     // of the calls, at random
};

inline int64_t Size(const Ids& ids) { return static_cast<int64_t>(ids.size()); }

// An array in memory of the device, written and read on the stream that this thread uses.
template <class T>
class OnDevice {
 public:
  OnDevice(const std::shared_ptr<Device>& device, std::vector<T> values)
      : space_(device->space),
        sent_(std::move(values)),
        memory_(space_->Allocate(std::max<size_t>(bytes(), 1), StreamInUse()).value()) {
    EXPECT(space_->Copy(data(), sent_.data(), bytes(), StreamInUse()).ok());
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() {
    space_->Free(memory_, StreamInUse());
    (void)space_->Wait(StreamInUse());  // for what is sent
  }
  T* data() { return reinterpret_cast<T*>(memory_); }
  std::vector<T> Back() {
    std::vector<T> values(sent_.size());
    EXPECT(space_->Copy(values.data(), data(), bytes(), StreamInUse()).ok());
    EXPECT(space_->Wait(StreamInUse()).ok());
    return values;
  }

 private:
  size_t bytes() const { return sent_.size() * sizeof(T); }

  const std::shared_ptr<Space> space_;
  const std::vector<T> sent_;
  std::byte* const memory_;
};

inline TableOptions OptionsOf(const Setting& setting, uint64_t seed) {
  return {"t",
          setting.dtype,
          {setting.dim},
          5,
          DrawArgs{setting.distribution, 0.25, 0.5, 0.1, 0.9, seed}};
}

// Does everything to both.
template <class TableOnDevice>
class Pair {
 public:
  Pair(const Setting& setting, std::shared_ptr<Device> device, uint64_t seed)
      : setting_(setting), random_(seed), device_(std::move(device)) {}
  ~Pair() { UseStream(nullptr); }

  // With these from now on.
  void Use(std::shared_ptr<Table> table, std::shared_ptr<TableOnDevice> on_device) {
    table_ = std::move(table);
    on_device_ = std::move(on_device);
    next_.reset();
  }

  // What the next training may look up, and how it is looked up on the device.
  struct Next {
    Ids ids;
    std::function<decltype(std::declval<TableOnDevice>().Find(nullptr, 0))(AdmissionPolicy*,
                                                                           std::byte*)>
        lookup;
  };
  void TrainNext(Next next) { next_ = std::move(next); }

  // Makes a random call. While `saved`, those that must wait for the end of that are left out.
  void Call(bool saved = false) {
    static char streams[8];
    if (setting_.streams > 1) UseStream(&streams[random_() % setting_.streams]);
    const uint64_t which = random_() % 12;
    if (which < 4) {
      Train();
    } else if (which == 4) {
      ReadSome();
    } else if (which == 5) {
      InsertSome();
    } else if (which == 6) {
      EvictSome();
    } else if (which == 7) {
      AskFirst();
    } else if (which == 8) {
      UseRows();
    } else if (which == 9) {
      Restore();
    } else if (which == 10) {
      table_->ClearGradient();
      EXPECT(on_device_->ClearGradient().ok());
    } else if (!saved && random_() % 8 == 0) {
      EXPECT(table_->Clear().ok());
      EXPECT(on_device_->Clear().ok());
    }
  }
  void Run(int calls, bool saved = false) {
    for (int i = 0; i < calls; ++i) {
      Call(saved);
      Compare();
    }
  }

  Table& table() { return *table_; }
  TableOnDevice& on_device() { return *on_device_; }
  std::mt19937_64& random() { return random_; }

 private:
  Ids SomeIds() {
    Ids ids(random_() % setting_.ids);
    for (int64_t& id : ids) id = static_cast<int64_t>(random_() % setting_.range) - 20;
    return ids;
  }
  size_t EmbeddingBytes() const { return SizeOf(setting_.dtype) * setting_.dim; }
  Bytes SomeValues(int64_t n, DType dtype) {
    Bytes bytes(n * setting_.dim * SizeOf(dtype));
    DrawArgs draw{Distribution::kNormal, 0, 2, 0, 1, random_()};
    for (int64_t i = 0; i < n; ++i) {
      ActiveKernels().draw(draw, i, dtype, setting_.dim,
                           bytes.data() + i * setting_.dim * SizeOf(dtype));
    }
    return bytes;
  }
  Ids LiveRows() const {
    const int64_t n = table_->size();
    Ids ids(n), rows(n);
    table_->IdsMap(n, ids.data(), rows.data());
    return rows;
  }
  Ids SomeRows() {
    const Ids live = LiveRows();
    Ids rows(live.empty() ? 0 : random_() % 40);
    for (int64_t& row : rows) row = live[random_() % live.size()];
    return rows;
  }

  template <class T>
  OnDevice<T> There(const std::vector<T>& values) const {
    return {device_, values};
  }

  void Train() {
    const auto next = random_() % 2 == 0 ? std::exchange(next_, std::nullopt) : std::nullopt;
    const Ids ids = next ? next->ids : SomeIds();
    std::vector<uint32_t> times(ids.size());
    for (uint32_t& each : times) each = random_() % 3 + 1;
    const bool policy = random_() % 3 == 0, timed = !next && random_() % 2 == 0;
    Bytes out(ids.size() * EmbeddingBytes());
    OnDevice<std::byte> device_out = There(out);
    OnDevice<int64_t> device_ids = There(ids);
    auto batch = table_->Lookup(ids.data(), Size(ids), policy ? &admission_ : nullptr, out.data(),
                                false, timed ? times.data() : nullptr);
    AdmissionPolicy* const device_policy = policy ? &device_admission_ : nullptr;
    auto device_batch = next
                            ? next->lookup(device_policy, device_out.data())
                            : on_device_->Lookup(device_ids.data(), Size(ids), device_policy,
                                                 device_out.data(), timed ? times.data() : nullptr);
    EXPECT(batch.status().ok() && device_batch.status().ok());
    EXPECT(out == device_out.Back());
    Batch& found = *batch.value();
    auto& device_found = *device_batch.value();
    CompareBatches(found, device_found);
    if (!IsFloating(setting_.dtype)) return;
    if (random_() % 4 == 0) {  // between the passes
      EvictSome();
      if (random_() % 2 == 0) InsertSome();  // some are back, in other rows
    }
    const bool mean = random_() % 2 == 0;
    const double divisor = random_() % 2 == 0 ? 1 : 3;
    const Bytes values = SomeValues(Size(ids), setting_.dtype);
    EXPECT(table_->Accumulate(found, values.data(), setting_.dtype, mean, divisor).ok());
    EXPECT(on_device_->Accumulate(device_found, There(values).data(), setting_.dtype, mean, divisor)
               .ok());
    if (random_() % 2 == 0) Step();
  }

  void Step() {
    std::vector<int> states;
    const bool row_wise = setting_.params.rule == Rule::kRowWiseAdagrad;
    for (const char* name : {"a", "b", "c"}) {
      Slot slot;
      slot.name = name;
      slot.dtype = AccumulatorOf(setting_.dtype);
      slot.shape = {row_wise ? 1 : setting_.dim};
      slot.initial = 0.125;
      states.push_back(table_->AddSlot(slot).value());
      EXPECT_EQ(on_device_->AddSlot(slot).value(), states.back());
    }
    EXPECT(table_->Step(setting_.params, states).ok());
    EXPECT(on_device_->Step(setting_.params, states).ok());
  }

  void ReadSome() {
    const Ids ids = SomeIds();
    OnDevice<int64_t> device_ids = There(ids);
    Bytes out(ids.size() * EmbeddingBytes());
    OnDevice<std::byte> device_out = There(out);
    EXPECT(table_->Read(ids.data(), Size(ids), out.data(), false).ok());
    EXPECT(on_device_->Read(device_ids.data(), Size(ids), device_out.data()).ok());
    EXPECT(out == device_out.Back());
    Ids rows(ids.size());
    OnDevice<int64_t> device_rows = There(rows);
    table_->Rows(ids.data(), Size(ids), rows.data());
    EXPECT(on_device_->Rows(device_ids.data(), Size(ids), device_rows.data()).ok());
    EXPECT_EQ(device_rows.Back(), rows);
    OnDevice<std::byte> there = There(Bytes(ids.size()));
    EXPECT(on_device_->Contains(device_ids.data(), Size(ids), reinterpret_cast<bool*>(there.data()))
               .ok());
    const Bytes told = there.Back();
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(told[i] == std::byte{1}, rows[i] >= 0);
  }

  void InsertSome() {
    const Ids ids = SomeIds();
    const Bytes values = SomeValues(Size(ids), setting_.dtype);
    auto batch = table_->Insert(ids.data(), Size(ids), values.data());
    auto device_batch = on_device_->Insert(There(ids).data(), Size(ids), There(values).data());
    CompareBatches(*batch.value(), *device_batch.value());
  }

  void EvictSome() {
    const Ids ids = SomeIds();
    EXPECT_EQ(table_->Evict(ids.data(), Size(ids)).value(),
              on_device_->Evict(There(ids).data(), Size(ids)).value());
  }

  void AskFirst() {
    const Ids ids = SomeIds();
    auto batch = table_->Find(ids.data(), Size(ids)).value();
    auto device_batch = on_device_->Find(There(ids).data(), Size(ids)).value();
    const auto admit = std::make_unique<bool[]>(ids.size());
    for (int64_t i = 0; i < batch->distinct; ++i) admit[i] = random_() % 2 == 0;
    if (random_() % 2 == 0) EvictSome();
    EXPECT(table_->AdmitFound(*batch, admit.get()).ok());
    EXPECT(on_device_->AdmitFound(*device_batch, admit.get()).ok());
    if (random_() % 2 == 0) {
      EvictSome();
      if (random_() % 2 == 0) InsertSome();  // some are in the rows of those
    }
    Bytes out(ids.size() * EmbeddingBytes());
    OnDevice<std::byte> device_out = There(out);
    EXPECT(table_->Gather(*batch, out.data(), false).ok());
    EXPECT(on_device_->Gather(*device_batch, device_out.data()).ok());
    EXPECT(out == device_out.Back());
  }

  void UseRows() {
    Ids rows = SomeRows();
    const bool bad = random_() % 4 == 0 && !rows.empty();
    if (bad) rows[random_() % rows.size()] = static_cast<int64_t>(random_() % 3) * 500 - 1;
    OnDevice<int64_t> device_rows = There(rows);
    if (IsFloating(setting_.dtype)) {
      const DType dtype = AccumulatorOf(setting_.dtype);
      const Bytes values = SomeValues(Size(rows), dtype);
      const Status status = table_->AccumulateRows(rows.data(), Size(rows), values.data(), dtype);
      EXPECT_EQ(
          on_device_->AccumulateRows(device_rows.data(), Size(rows), There(values).data(), dtype)
              .message(),
          status.message());
    }
    const Bytes values = SomeValues(Size(rows), setting_.dtype);
    OnDevice<std::byte> device_values = There(values);
    const Status written = table_->WriteSlot(0, rows.data(), Size(rows), values.data());
    EXPECT_EQ(
        on_device_->WriteSlot(0, device_rows.data(), Size(rows), device_values.data()).message(),
        written.message());
    Bytes read(values);
    const Status status = table_->ReadSlot(0, rows.data(), Size(rows), read.data());
    EXPECT_EQ(
        on_device_->ReadSlot(0, device_rows.data(), Size(rows), device_values.data()).message(),
        status.message());
    EXPECT(read == device_values.Back());
    Slot counter;
    counter.name = "count";
    counter.dtype = DType::kInt64;
    counter.shape = {2};
    const int slot = table_->AddSlot(counter).value();
    EXPECT_EQ(on_device_->AddSlot(counter).value(), slot);
    if (!bad) rows = SomeRows();  // that were not written just now
    Ids more(2 * rows.size());
    for (int64_t& each : more) each = static_cast<int64_t>(random_());
    const Status added = table_->AddToSlot(slot, rows.data(), Size(rows), more.data());
    EXPECT_EQ(
        on_device_->AddToSlot(slot, There(rows).data(), Size(rows), There(more).data()).message(),
        added.message());
  }

  void Restore() {
    Ids ids = SomeIds();
    if (random_() % 4 != 0) {
      std::sort(ids.begin(), ids.end());
      ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
      std::shuffle(ids.begin(), ids.end(), random_);
    }
    const Bytes values = SomeValues(Size(ids), setting_.dtype);
    std::vector<int> slots;
    OnDevice<std::byte> device_values = There(values);
    std::vector<const std::byte*> addresses, device_addresses;
    if (random_() % 2 == 0) {
      slots = {0};
      addresses = {values.data()};
      device_addresses = {device_values.data()};
    }
    const Status status = table_->Restore(ids.data(), Size(ids), slots, addresses);
    EXPECT_EQ(on_device_->Restore(There(ids).data(), Size(ids), slots, device_addresses).message(),
              status.message());
  }

  void CompareBatches(const Batch& batch, const auto& on_device) const {
    const std::shared_ptr<Batch> copy = on_device.OnHost().value();
    const Batch& device = *copy;
    EXPECT_EQ(batch.distinct, device.distinct);
    EXPECT_EQ(std::memcmp(batch.id_data(), device.id_data(), batch.distinct * 8), 0);
    EXPECT_EQ(std::memcmp(batch.row_data(), device.row_data(), batch.distinct * 4), 0);
    EXPECT_EQ(std::memcmp(batch.inverse_data(), device.inverse_data(), batch.size * 4), 0);
  }

 public:
  // All that can be read.
  void Compare() const {
    const int64_t n = table_->size();
    EXPECT_EQ(Told(on_device_->size()), n);
    const int64_t capacity = table_->Capacity();
    EXPECT_EQ(Told(on_device_->Capacity()), capacity);
    Ids ids(n), rows(n);
    OnDevice<int64_t> device_ids = There(ids), device_rows = There(rows);
    table_->IdsMap(n, ids.data(), rows.data());
    EXPECT_EQ(on_device_->IdsMap(n, device_ids.data(), device_rows.data()).value(), n);
    EXPECT_EQ(device_ids.Back(), ids);
    EXPECT_EQ(device_rows.Back(), rows);
    const std::vector<Slot> slots = table_->Slots();
    EXPECT_EQ(on_device_->Slots().size(), slots.size());
    for (size_t k = 0; k < slots.size(); ++k) {
      Bytes values(capacity * slots[k].bytes(), std::byte{1});
      OnDevice<std::byte> device_values = There(values);
      EXPECT(table_->ReadWholeSlot(static_cast<int>(k), capacity, values.data()).ok());
      EXPECT(on_device_->ReadWholeSlot(static_cast<int>(k), capacity, device_values.data()).ok());
      EXPECT(values == device_values.Back(), slots[k].name);
    }
    const int64_t pending = table_->GradientRows();
    EXPECT_EQ(on_device_->GradientRows().value(), pending);
    EXPECT_EQ(on_device_->HasGradient().value(), pending > 0);
    Ids gradient_rows(pending);
    Bytes sums(pending * setting_.dim * SizeOf(AccumulatorOf(setting_.dtype)));
    OnDevice<int64_t> there_rows = There(gradient_rows);
    OnDevice<std::byte> there_sums = There(sums);
    table_->ReadGradient(pending, 3, gradient_rows.data(), sums.data());
    EXPECT_EQ(on_device_->ReadGradient(pending, 3, there_rows.data(), there_sums.data()).value(),
              pending);
    EXPECT_EQ(there_rows.Back(), gradient_rows);
    EXPECT(there_sums.Back() == sums);
    const TableStats stats = table_->Stats();
    Result<TableStats> device_stats = on_device_->Stats();
    const auto told = [](const TableStats& s) {
      return Ids{s.rows,   s.lookups,  s.hits,      s.misses,
                 s.admits, s.refusals, s.evictions, s.gradient_rows};
    };
    EXPECT_EQ(told(device_stats.value()), told(stats));
  }

 private:
  static int64_t Told(int64_t count) { return count; }
  static int64_t Told(Result<int64_t> count) { return count.value(); }

  const Setting setting_;
  std::mt19937_64 random_;
  const std::shared_ptr<Device> device_;
  std::shared_ptr<Table> table_;
  std::shared_ptr<TableOnDevice> on_device_;
  std::optional<Next> next_;
  FrequencyAdmission admission_{2, 1000}, device_admission_{2, 1000};
};

// A DeviceTable and its twin in memory.
class DevicePair : public Pair<DeviceTable> {
 public:
  DevicePair(const Setting& setting, const std::shared_ptr<Device>& device, uint64_t seed)
      : Pair(setting, device, seed) {
    const TableOptions options = OptionsOf(setting, seed);
    Use(Table::Make(options).value(), DeviceTable::Make(options, device).value());
  }
};

}  // namespace recis::testing
