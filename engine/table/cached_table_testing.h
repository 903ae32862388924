// What the tests of a table with records on a device and in a store share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "table/cached_table.h"
#include "table/table_store_testing.h"

namespace recis::testing {

// Memory of the emulated device is the host's, so arrays are passed as they are.
inline std::byte* Bytes(Values& values) { return reinterpret_cast<std::byte*>(values.data()); }

inline Ids Range(int64_t begin, int64_t end) {
  Ids ids(static_cast<size_t>(end - begin));
  std::iota(ids.begin(), ids.end(), begin);
  return ids;
}
inline int64_t Size(const Ids& ids) { return static_cast<int64_t>(ids.size()); }

// `blocks` of records with the states of Adam on the device.
inline std::shared_ptr<CachedTable> JoinCached(const std::shared_ptr<Store>& store, int64_t blocks,
                                               const std::string& name = "t",
                                               std::shared_ptr<Device> device = EmulatedDevice()) {
  const auto table = Value(CachedTable::Make(Options(name), store, device, BytesOf(blocks)));
  for (const char* state : {"m", "v"}) {
    Value(table->AddSlot({.name = state, .shape = {kDim}}));
  }
  return table;
}

inline std::shared_ptr<CachedBatch> Lookup(CachedTable& table, const Ids& ids,
                                           Values* out = nullptr) {
  Values values(ids.size() * kDim);
  auto batch = Value(table.Lookup(ids.data(), Size(ids), nullptr, Bytes(values)));
  if (out != nullptr) *out = values;
  return batch;
}
inline Values Read(const CachedTable& table, const Ids& ids) {
  Values values(ids.size() * kDim);
  Ok(table.Read(ids.data(), Size(ids), Bytes(values)));
  return values;
}
inline void Accumulate(CachedTable& table, const std::shared_ptr<CachedBatch>& batch) {
  const Values gradient(static_cast<size_t>(batch->batch->size) * kDim, 1);
  Ok(table.Accumulate(*batch, gradient.data(), DType::kFloat32, false, 1));
}
inline void Step(CachedTable& table) {
  Ok(table.Step({.rule = Rule::kAdam, .step_size = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8},
                {1, 2}));
}
inline void Train(CachedTable& table, const Ids& ids) {
  Accumulate(table, Lookup(table, ids));
  Step(table);
  Ok(table.ClearGradient());
}

inline Content ContentOf(const CachedTable& table) {
  Content content;
  const auto size = static_cast<size_t>(table.size());
  content.ids.resize(size);
  content.rows.resize(size);
  Value(table.IdsMap(table.size(), content.ids.data(), content.rows.data()));
  const std::vector<Slot> slots = table.Slots();
  for (size_t i = 0; i < slots.size(); ++i) {
    Values values(size * slots[i].count);
    Ok(table.ReadSlot(static_cast<int>(i), content.rows.data(), table.size(), Bytes(values)));
    content.slots.push_back(values);
  }
  return content;
}

}  // namespace recis::testing
