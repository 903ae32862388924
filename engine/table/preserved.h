// Records of a table as they were at one moment, while a cut of it is saved.
//
// Just before the first touch of a row its record is copied into a pool, where it stays until its
// slice is saved. When the pool is full, whoever wants to change the table waits for the saver.
//
// Threads: Keep() and Touch() under the table's lock, touched() under it or its shared form; the
//   rest from any thread.
// Invariants:
//  (1) A row is in touched() iff it was made, changed or freed since the moment; it has a copy
//      iff it was live at the moment and its slice is not done.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "device/memory.h"
#include "table/index.h"
#include "table/row_changes.h"
#include "table/snapshot_source.h"

namespace recis {

class Preserved {
 public:
  struct Copy {
    int64_t id;
    const std::byte* record;  // null: there is none
  };

  // Of rows below `end`.
  Preserved(size_t record_bytes, int64_t pool_bytes, Row end);

  const RowSet& touched() const { return touched_; }
  void Touch(Row row) { touched_.Add(row); }
  // Touches these live rows, of which some may be the same, and copies the records of those that
  // were not touched yet. Fails without effect if there is no memory.
  Status Keep(const RowOfId* rows, int64_t n, const std::byte* const* records);

  // ---- from any thread --------------------------------------------------------------

  // Leaves out those whose slices are done.
  void DropDone(std::vector<RowOfId>* rows) const;
  // The copies of rows. A record stays until its slice is done.
  void Find(const Row* rows, int64_t n, Copy* copies) const;
  void Done(uint32_t slices, uint32_t begin, uint32_t end);
  bool full() const;
  // Returns when there is room, or after a while; whether there is.
  bool WaitForRoom() const;
  // Keeps nothing any more.
  void Release();

 private:
  bool IsDone(int64_t id) const;        // REQUIRES: mutex_
  bool Full() const;                    // REQUIRES: mutex_
  void MakeRoom(int64_t n);             // REQUIRES: mutex_: for so many copies
  std::byte* RecordAt(Row copy) const;  // REQUIRES: mutex_

  const size_t record_bytes_;
  const int64_t slab_copies_;  // in one slab
  const int64_t most_;         // copies, from which on the pool is full
  RowSet touched_;
  mutable std::mutex mutex_;
  mutable std::condition_variable room_;
  std::vector<Buffer> slabs_;  // GUARDED_BY(mutex_)
  std::vector<RowOfId> kept_;  // GUARDED_BY(mutex_): by copy; kNoRow where the copy is free
  std::vector<Row> free_;      // GUARDED_BY(mutex_): copies to use again
  Index copies_;               // GUARDED_BY(mutex_): a row's copy
  std::vector<bool> done_;     // GUARDED_BY(mutex_): by slice; empty until one is
  bool released_ = false;      // GUARDED_BY(mutex_)
};

}  // namespace recis
