// The content of a table at one moment, while the table goes on being changed.
//
// A row that has not been touched since is read where it is. Just before the first touch of a
// row its record is copied into a pool, until the row's slice is saved. When the pool is full,
// whoever wants to change the table waits for the saver.
//
// Threads: Preserved and its methods belong to the table, under its lock, but for those that
//   say otherwise. Cut: see SnapshotSource.
// Invariants:
//  (1) A row is in touched() iff it was made, changed or freed since the moment; it has a copy
//      iff it was live at the moment and its slice is not done.
//  (2) Whoever waits for room is let go when the cut is closed, abandoned or destroyed.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "table/row_changes.h"
#include "table/snapshot_source.h"

namespace recis {

class Table;

// What a table keeps for its cut.
class Preserved {
 public:
  struct Copy {
    int64_t id;
    std::unique_ptr<std::byte[]> record;
  };

  Preserved(size_t record_bytes, int64_t pool_bytes)
      : record_bytes_(record_bytes), pool_bytes_(pool_bytes) {}

  const RowSet& touched() const { return touched_; }
  // Whether a live row must be kept before it is touched.
  bool Needs(Row row, int64_t id) const;
  void Keep(Row row, int64_t id, const std::byte* record);
  void Touch(Row row) { touched_.Add(row); }

  // ---- from any thread --------------------------------------------------------------

  // The copy of a touched row; null if it was not live at the moment, or is not needed any more.
  // It stays until its slice is done.
  const Copy* Find(Row row) const;
  // The id of that copy, of whatever slice; none if there is no copy.
  std::optional<int64_t> FindId(Row row) const;
  void Done(uint32_t slices, uint32_t begin, uint32_t end);
  bool full() const;
  // Returns when there is room.
  void WaitForRoom() const;
  // Keeps nothing any more.
  void Release();

 private:
  bool IsDone(int64_t id) const;  // REQUIRES: mutex_
  bool Full() const { return !released_ && bytes_ > pool_bytes_; }

  const size_t record_bytes_;
  const int64_t pool_bytes_;
  RowSet touched_;
  mutable std::mutex mutex_;
  mutable std::condition_variable room_;
  std::unordered_map<Row, Copy> copies_;  // GUARDED_BY(mutex_)
  int64_t bytes_ = 0;                     // GUARDED_BY(mutex_): of copies_
  std::vector<bool> done_;                // GUARDED_BY(mutex_): by slice; empty until one is
  bool released_ = false;                 // GUARDED_BY(mutex_)
};

// Table::TakeCut() makes it. `delta`: only of what changed since the last one that was closed.
class Cut : public SnapshotSource {
 public:
  // Abandons it, unless closed.
  ~Cut() override;

  const std::vector<Slot>& slots() const override { return slots_; }
  int64_t rows() const { return rows_; }
  // Of a delta: ids that had a row and have none now, ascending.
  const std::vector<int64_t>& deleted() const { return deleted_; }

  Status CountSlices(uint32_t slices, int64_t* counts) const override;
  Status List(uint32_t slices, uint32_t begin, uint32_t end,
              std::vector<RowOfId>* rows) const override;
  Status Gather(const RowOfId* rows, int64_t n,
                const std::vector<std::byte*>& values) const override;
  void Done(uint32_t slices, uint32_t begin, uint32_t end) override;

  // Both REQUIRE that no other method runs, and end the cut: nothing else may be called.
  // It is saved: later deltas are of what changed since.
  void Close();
  // It is not: what it would have saved is for the next delta.
  void Abandon();

 private:
  friend class Table;
  Cut() = default;
  Status Usable() const;
  int64_t CountRows() const;
  template <class Use>
  void ForEachRow(int64_t begin, int64_t end, Use use) const;

  std::shared_ptr<Table> table_;  // null once closed or abandoned
  std::shared_ptr<Preserved> preserved_;
  std::vector<Slot> slots_;
  size_t record_bytes_ = 0;
  int64_t end_ = 0;    // rows of the moment are below
  int64_t rows_ = 0;   // of this cut
  bool whole_ = true;  // not only what changed
  bool tracked_ = false;
  RowChanges changes_;  // what the table had tracked until then
  std::vector<int64_t> deleted_;
};

}  // namespace recis
