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
#include <mutex>
#include <vector>

#include "base/status.h"
#include "table/preserved.h"
#include "table/row_changes.h"
#include "table/snapshot_source.h"

namespace recis {

class Cuttable;

// Cuttable::TakeCut() makes it. `delta`: only of what changed since the last one that was closed.
class Cut : public SnapshotSource {
 public:
  static constexpr int64_t kListedRows = int64_t{2} << 20;

  // Abandons it, unless closed.
  ~Cut() override;

  const std::vector<Slot>& slots() const override { return slots_; }
  int64_t rows() const { return rows_; }
  // Of a delta: ids that had a row and have none now, ascending.
  const std::vector<int64_t>& deleted() const { return deleted_; }

  Status CountSlices(uint32_t slices, int64_t* counts) const override;
  Status List(uint32_t slices, uint32_t begin, uint32_t end,
              std::vector<RowOfId>* rows) const override;
  size_t gathered_bytes() const override { return gathered_bytes_; }
  Status Gather(const RowOfId* rows, int64_t n,
                const std::vector<std::byte*>& values) const override;
  void Done(uint32_t slices, uint32_t begin, uint32_t end) override;

  // Both REQUIRE that no other method runs, and end the cut: nothing else may be called.
  // It is saved: later deltas are of what changed since.
  void Close();
  // It is not: what it would have saved is for the next delta.
  void Abandon();

 private:
  friend class Cuttable;
  Cut() = default;
  Status Usable() const;
  int64_t CountRows() const;
  // Which rows slices [begin, end) of `slices` have, by slice. Found for many slices at once, since
  // that takes a look at every row of the table.
  struct Listing {
    uint32_t slices, begin, end;
    std::vector<int64_t> offsets;  // (end - begin + 1): where each slice begins
    std::vector<Row> rows;         // kNoRow where a slice that is done has lost one
  };
  Result<std::shared_ptr<const Listing>> ListingOf(uint32_t slices, uint32_t begin,
                                                   uint32_t end) const;
  Status Count(uint32_t slices) const;
  template <class RowAt, class Use>
  void ForEachRow(int64_t begin, int64_t end, RowAt row_at, Use use) const;
  template <class RowAt, class Use>
  Status Scan(int64_t n, RowAt row_at, Use use) const;

  std::shared_ptr<Cuttable> table_;  // null once closed or abandoned
  std::shared_ptr<Preserved> preserved_;
  std::vector<Slot> slots_;
  size_t record_bytes_ = 0;
  int64_t end_ = 0;   // rows of the moment are below
  int64_t rows_ = 0;  // of this cut
  int64_t listed_rows_ = kListedRows;
  size_t gathered_bytes_ = kGatheredBytes;
  bool whole_ = true;  // not only what changed
  bool tracked_ = false;
  RowChanges changes_;  // what the table had tracked until then
  std::vector<int64_t> deleted_;
  mutable std::mutex listing_mutex_;     // before the table's lock
  mutable std::vector<int64_t> counts_;  // GUARDED_BY(listing_mutex_): rows of each slice
  mutable std::shared_ptr<const Listing> listing_;  // GUARDED_BY(listing_mutex_): the last one
};

}  // namespace recis
