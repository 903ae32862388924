// What the tests of tables share: calls in terms of vectors, for float32 tables.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "table/table.h"

namespace recis::testing {

using Ids = std::vector<int64_t>;
using Values = std::vector<float>;

// The table 't'.
inline std::shared_ptr<Table> MakeTable(std::vector<int64_t> shape, DrawArgs draw = {},
                                        int64_t block_rows = 5, DType dtype = DType::kFloat32) {
  Result<std::shared_ptr<Table>> table = Table::Make({.name = "t",
                                                      .dtype = dtype,
                                                      .shape = std::move(shape),
                                                      .block_rows = block_rows,
                                                      .draw = draw});
  EXPECT_EQ(table.status().message(), "");
  return std::move(table.value());
}

template <class AnyTable>
int64_t DimOf(const AnyTable& table) {
  return table.Slots()[0].count;
}

struct Found {
  std::shared_ptr<Batch> batch;
  Values values;  // (ids, dim)
};

inline Found Lookup(Table& table, const Ids& ids, AdmissionPolicy* policy = nullptr,
                    bool stream = false) {
  Found found{nullptr, Values(ids.size() * DimOf(table), -1)};
  Result<std::shared_ptr<Batch>> batch =
      table.Lookup(ids.data(), static_cast<int64_t>(ids.size()), policy,
                   reinterpret_cast<std::byte*>(found.values.data()), stream);
  EXPECT_EQ(batch.status().message(), "");
  found.batch = batch.value();
  return found;
}

inline Values Read(const Table& table, const Ids& ids, bool stream = false) {
  Values values(ids.size() * DimOf(table), -1);
  EXPECT(table
             .Read(ids.data(), static_cast<int64_t>(ids.size()),
                   reinterpret_cast<std::byte*>(values.data()), stream)
             .ok());
  return values;
}

inline Ids RowsOf(const Table& table, const Ids& ids) {
  Ids rows(ids.size());
  table.Rows(ids.data(), static_cast<int64_t>(ids.size()), rows.data());
  return rows;
}

inline void Insert(Table& table, const Ids& ids, const Values& values) {
  EXPECT(table
             .Insert(ids.data(), static_cast<int64_t>(ids.size()),
                     reinterpret_cast<const std::byte*>(values.data()))
             .ok());
}

inline int64_t Evict(Table& table, const Ids& ids) {
  return table.Evict(ids.data(), static_cast<int64_t>(ids.size())).value();
}

inline int AddSlot(Table& table, std::string name, std::vector<int64_t> shape, double initial = 0) {
  Slot slot;
  slot.name = std::move(name);
  slot.shape = std::move(shape);
  slot.initial = initial;
  Result<int> added = table.AddSlot(std::move(slot));
  EXPECT_EQ(added.status().message(), "");
  return added.value();
}

// Every row of a float32 slot, those not in use included.
inline Values WholeSlot(const Table& table, int slot = 0) {
  Values values(table.Capacity() * table.Slots()[slot].count, -1);
  EXPECT(table.ReadWholeSlot(slot, table.Capacity(), reinterpret_cast<std::byte*>(values.data()))
             .ok());
  return values;
}

inline Status Accumulate(Table& table, const Batch& batch, const Values& values, bool mean = false,
                         double divisor = 1) {
  return table.Accumulate(batch, values.data(), DType::kFloat32, mean, divisor);
}

inline Status AccumulateRows(Table& table, const Ids& rows, const Values& values) {
  return table.AccumulateRows(rows.data(), static_cast<int64_t>(rows.size()), values.data(),
                              DType::kFloat32);
}

// The pending gradient by row.
inline std::map<int64_t, Values> GradientOf(const Table& table, double divisor = 1) {
  const int64_t n = table.GradientRows(), dim = DimOf(table);
  Ids rows(n);
  Values values(n * dim);
  EXPECT_EQ(
      table.ReadGradient(n, divisor, rows.data(), reinterpret_cast<std::byte*>(values.data())), n);
  std::map<int64_t, Values> gradient;
  for (int64_t i = 0; i < n; ++i) {
    if (i > 0) EXPECT_LT(rows[i - 1], rows[i]);
    gradient[rows[i]] = Values(&values[i * dim], &values[i * dim] + dim);
  }
  return gradient;
}

}  // namespace recis::testing
