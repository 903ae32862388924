// The directory of rows: which are live, whose they are, and which come next.
//
// Rows are dense from 0. A freed row is reused, last freed first, before a new one is
// made. Nine bytes a row, in chunks that never move or get copied. The order in which freed
// rows come back is part of a table's state, so a commit saves it.
//
// Threads: const methods from any while no other runs; Bind() from any on distinct rows
//   that Allocate() gave out; the rest by one thread at a time.
// Invariants:
//  (1) live rows + freed rows = end().
//  (2) IdOf(row) is meaningful only while Live(row).
#pragma once

#include <cstdint>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "device/memory.h"

namespace recis {

class Directory {
 public:
  // Rows that Allocate(count) would hand out are below this.
  int64_t EndAfter(int64_t count) const;
  // Makes room so that Allocate(count) cannot fail.
  Status Reserve(int64_t count);
  // REQUIRES: Reserve(count). Hands out `count` rows: freed ones first, then new ones.
  void Allocate(int64_t count, Row* rows);
  void Bind(Row row, int64_t id);
  // REQUIRES: Live(row).
  void Free(Row row);
  void Clear();

  // Freed rows, the next one at the back.
  const std::vector<Row>& freed() const { return freed_; }
  // How many of them, from the front, have not changed since the last call.
  int64_t TakeUnchanged();
  // Fills an empty directory: rows below `end`, of which these are freed and the others will
  // be bound.
  Status Recover(int64_t end, std::vector<Row> freed);

  bool Live(int64_t row) const { return row >= 0 && row < end_ && live(static_cast<Row>(row)); }
  int64_t IdOf(Row row) const { return ids(row); }
  int64_t end() const { return end_; }  // one more than the highest row ever in use
  int64_t live_rows() const { return end_ - static_cast<int64_t>(freed_.size()); }
  size_t Bytes() const;

 private:
  static constexpr int kChunkBits = 16;
  static constexpr int64_t kChunkRows = int64_t{1} << kChunkBits;

  int64_t& ids(Row row) const {
    return reinterpret_cast<int64_t*>(chunks_[row >> kChunkBits].data())[row % kChunkRows];
  }
  bool& live(Row row) const {
    return reinterpret_cast<bool*>(chunks_[row >> kChunkBits].data() +
                                   kChunkRows * sizeof(int64_t))[row % kChunkRows];
  }

  std::vector<Slab> chunks_;  // each: ids, then live flags
  std::vector<Row> freed_;    // last freed at the back
  size_t unchanged_ = 0;      // of freed_
  int64_t end_ = 0;
};

}  // namespace recis
