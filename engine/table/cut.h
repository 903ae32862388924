// The content of a table at one moment, while the table goes on being changed.
//
// A row that has not been touched since is read where it is, others where they are preserved.
//
// Threads: see SnapshotSource.
// Invariants:
//  (1) Whoever waits for room among what is preserved is let go when the cut is closed,
//      abandoned or destroyed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "table/preserved.h"
#include "table/row_changes.h"
#include "table/snapshot_source.h"

namespace recis {

class Table;

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
