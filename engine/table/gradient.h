// The pending gradient of a table: one accumulator row for each row that has one.
//
// Threads: by one at a time; sums are written by the pool within a call.
// Invariants:
//  (1) A row of the table stands at most once among the live entries.
//  (2) Contributions are added in the order of the calls, and occurrences within one in
//      the order of their positions: the sum does not depend on the thread count.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/dtype.h"
#include "base/row.h"
#include "base/status.h"
#include "device/memory.h"
#include "table/batch.h"
#include "table/numbering.h"

namespace recis {

class Gradient {
 public:
  Gradient(DType dtype, int64_t dim);

  // Adds to each of `count` distinct rows the sum (or mean) of its occurrences' values,
  // divided by `divisor`; rows that are kNoRow take nothing.
  void Add(const Row* rows, int64_t count, const Occurrences& occurrences, const void* values,
           DType dtype, bool mean, double divisor);
  void Drop(Row row);
  void Clear();

  // Live entries; ascending by row if asked for.
  struct Entry {
    Row row;
    uint32_t index;
  };
  std::vector<Entry> Entries(bool ascending) const;
  const std::byte* At(uint32_t index) const { return sums_.data() + index * row_bytes_; }
  bool empty() const { return rows_.empty(); }
  size_t row_bytes() const { return row_bytes_; }

 private:
  Numbering& RowNumbers();
  void Grow(size_t entries);

  DType dtype_;  // accumulators
  int64_t dim_;
  size_t row_bytes_;
  std::vector<Row> rows_;  // row of each entry; kNoRow once dropped
  Buffer sums_;            // (entries, dim)
  // Made when a second contribution or a drop must find entries by row: the usual step
  // has one contribution, whose rows are distinct already.
  std::optional<Numbering> numbers_;
};

}  // namespace recis
