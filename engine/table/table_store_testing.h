// What tests of tables in stores share: all of a table's content, and random calls that may be
// made to a table in a store and to its twin in memory.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "cold/log_testing.h"
#include "table/table_testing.h"

namespace recis::testing {

inline constexpr int64_t kBlockRows = 5;
inline constexpr int64_t kDim = 3;

// Stores and tables of small records.
inline std::shared_ptr<Store> Open(const std::string& path, int64_t hot_bytes,
                                   std::optional<uint64_t> epoch = {}) {
  StoreOptions options;
  options.log.path = path;
  options.log.epoch = epoch;
  options.hot_bytes = hot_bytes;
  Result<std::shared_ptr<Store>> store = Store::Open(options);
  EXPECT_EQ(store.status().message(), "");
  return store.value();
}

inline TableOptions Options(const std::string& name = "t") {
  return {.name = name,
          .dtype = DType::kFloat32,
          .shape = {kDim},
          .block_rows = kBlockRows,
          .draw = {.distribution = Distribution::kUniform, .shift = -1, .scale = 2, .seed = 5}};
}

inline std::shared_ptr<Table> Join(const std::shared_ptr<Store>& store,
                                   const std::string& name = "t") {
  Result<std::shared_ptr<Table>> table = Table::Make(Options(name), store);
  EXPECT_EQ(table.status().message(), "");
  return table.value();
}

// Of so many blocks of them.
inline int64_t BytesOf(int64_t blocks) {
  return blocks * kBlockRows * 48;  // embedding and two states: 36 bytes, padded
}

// Everything a table holds, in row order.
struct Content {
  Ids ids, rows;
  std::vector<Values> slots;
  bool operator==(const Content&) const = default;
};

inline Content ContentOf(const Table& table) {
  Content content;
  const int64_t size = table.size();
  content.ids.resize(static_cast<size_t>(size));
  content.rows.resize(static_cast<size_t>(size));
  EXPECT_EQ(table.IdsMap(size, content.ids.data(), content.rows.data()), size);
  const std::vector<Slot> slots = table.Slots();
  for (size_t i = 0; i < slots.size(); ++i) {
    Values values(static_cast<size_t>(size * slots[i].count));
    Ok(table.ReadSlot(static_cast<int>(i), content.rows.data(), size,
                      reinterpret_cast<std::byte*>(values.data())));
    content.slots.push_back(values);
  }
  return content;
}

// What a table on a device takes and gives otherwise: no `stream`, and a gradient that may not go.
template <class AnyTable>
auto LookupInto(AnyTable& table, const Ids& ids, std::byte* out) {
  const auto n = static_cast<int64_t>(ids.size());
  if constexpr (std::is_same_v<AnyTable, Table>) {
    return table.Lookup(ids.data(), n, nullptr, out, false);
  } else {
    return table.Lookup(ids.data(), n, nullptr, out);
  }
}
template <class AnyTable>
Status ReadInto(const AnyTable& table, const Ids& ids, std::byte* out) {
  const auto n = static_cast<int64_t>(ids.size());
  if constexpr (std::is_same_v<AnyTable, Table>) {
    return table.Read(ids.data(), n, out, false);
  } else {
    return table.Read(ids.data(), n, out);
  }
}
template <class AnyTable>
Status DropGradient(AnyTable& table) {
  if constexpr (std::is_same_v<AnyTable, Table>) {
    table.ClearGradient();
    return {};
  } else {
    return table.ClearGradient();
  }
}

// The states of Adam. Adding them again changes nothing.
template <class AnyTable>
Result<std::vector<int>> TryAddStates(AnyTable& table) {
  std::vector<int> states;
  for (const char* name : {"m", "v"}) {
    Result<int> added = table.AddSlot({.name = name, .shape = {DimOf(table)}});
    if (!added.ok()) return added.status();
    states.push_back(added.value());
  }
  return states;
}
inline std::vector<int> AddStates(Table& table) { return Value(TryAddStates(table)); }

// One step of Adam, or of SGD where there are no states. A step that failed may be made again.
template <class AnyTable>
Status Train(AnyTable& table, const Ids& ids, const std::vector<int>& states) {
  Values values(ids.size() * DimOf(table));
  auto batch = LookupInto(table, ids, reinterpret_cast<std::byte*>(values.data()));
  if (!batch.ok()) return batch.status();
  for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(i % 7);
  RECIS_RETURN_IF_ERROR(DropGradient(table));
  RECIS_RETURN_IF_ERROR(table.Accumulate(*batch.value(), values.data(), DType::kFloat32, false, 1));
  RuleParams params{.rule = states.empty() ? Rule::kSgd : Rule::kAdam, .step_size = 0.1};
  params.beta1 = 0.9;
  params.beta2 = 0.99;
  params.eps = 1e-8;
  RECIS_RETURN_IF_ERROR(table.Step(params, states));
  return DropGradient(table);
}

// Random calls; the same seed gives the same ones.
class Workload {
 public:
  struct Call {
    enum Kind { kTrain, kInsert, kEvict, kRead } kind;
    Ids ids;
    Values values;  // of kInsert
  };

  explicit Workload(uint64_t seed) : random_(seed) {}

  Call Next(int64_t dim) {
    Call call{Call::kRead, Ids(random_() % 40), {}};
    for (int64_t& id : call.ids) id = static_cast<int64_t>(random_() % 120) - 60;
    const uint64_t what = random_() % 10;
    if (what < 6) {
      call.kind = Call::kTrain;
    } else if (what < 8) {
      call.kind = Call::kInsert;
      call.values.resize(call.ids.size() * dim);
      for (float& value : call.values) value = static_cast<float>(random_() % 100);
    } else if (what == 8) {
      call.kind = Call::kEvict;
      call.ids.resize(std::min<size_t>(call.ids.size(), 10));
    }
    return call;
  }

  template <class AnyTable>
  static Status Do(const Call& call, AnyTable& table, const std::vector<int>& states) {
    const auto n = static_cast<int64_t>(call.ids.size());
    switch (call.kind) {
      case Call::kTrain:
        return Train(table, call.ids, states);
      case Call::kInsert:
        return table
            .Insert(call.ids.data(), n, reinterpret_cast<const std::byte*>(call.values.data()))
            .status();
      case Call::kEvict:
        return table.Evict(call.ids.data(), n).status();
      case Call::kRead:
        break;
    }
    Values values(call.ids.size() * DimOf(table));
    return ReadInto(table, call.ids, reinterpret_cast<std::byte*>(values.data()));
  }

  void Run(Table& table, const std::vector<int>& states, int calls) {
    for (int i = 0; i < calls; ++i) Ok(Do(Next(DimOf(table)), table, states));
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace recis::testing
