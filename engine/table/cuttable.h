// A table of which cuts can be taken: what Table and DeviceTable have in common there.
//
// A table says which rows it has and where their records are, and calls BeforeChange() with the
// rows that it is about to write or free. What is kept for a cut, and what changed between two, is
// here.
//
// Threads: public methods from any thread. What is not public REQUIRES the table's lock, shared for
//   const methods; but for ReadAhead(), which takes it.
// Invariants:
//  (1) There is one cut at most, and preserved_ is what is kept for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "base/shared_mutex.h"
#include "base/status.h"
#include "base/yield.h"
#include "device/memory.h"
#include "store/tier.h"
#include "table/checks.h"
#include "table/cut.h"
#include "table/directory.h"
#include "table/row_changes.h"

namespace recis {

class Cuttable : public std::enable_shared_from_this<Cuttable> {
 public:
  virtual ~Cuttable() = default;

  // Whether to remember from now on which rows change, for deltas.
  Status Track(bool on);
  // The table as of now. One at a time. While it is there, copies of at most about `pool_bytes` are
  // kept, and changes wait where that is not enough. It lists about `listed_rows` at a time.
  Result<std::shared_ptr<Cut>> TakeCut(bool delta, int64_t pool_bytes,
                                       int64_t listed_rows = Cut::kListedRows);

  const TableOptions& options() const { return options_; }

 protected:
  using ReadLock = Yielding<std::shared_lock<SharedMutex>>;
  using WriteLock = Yielding<std::unique_lock<SharedMutex>>;

  // What a table tells of itself when a cut of it is taken.
  struct Moment {
    std::vector<Slot> slots;
    size_t record_bytes;  // of all slots
    int64_t rows;
    bool all_seen;  // nobody can have changed rows unseen
    size_t gathered_bytes;
  };

  // `mutex`: the lock, if it is shared with others.
  explicit Cuttable(TableOptions options, SharedMutex* mutex = nullptr)
      : options_(std::move(options)), mutex_(mutex != nullptr ? *mutex : own_mutex_) {}

  // The lock, once a cut has room for what will be changed. May throw Interrupted.
  WriteLock LockToChange();
  // Before the records of these live rows are written or freed: keeps them for the cut.
  Status BeforeChange(const Row* rows, int64_t n);
  // Notes that these rows are written, freed or new.
  void Touch(const Row* rows, int64_t n);
  Status CheckClearable() const;

 private:
  friend class Cut;

  // Whether records may be read.
  virtual Status Usable() const { return {}; }
  // What it has noted of changes by itself is of no use.
  virtual Status ForgetChanges() { return {}; }
  // Adds to changes_, if there are any, what it has noted by itself. Fails without effect.
  virtual Result<Moment> BeginCut() = 0;
  virtual void CutEnded() {}
  // All rows, or those there were when the cut was taken. REQUIRES: there is a cut.
  virtual const Directory& directory() const = 0;
  virtual Status FindIds(const int64_t* ids, int64_t n, Row* rows) const = 0;
  // Finds records to read; copies of them where they are not in the host's memory. REQUIRES: there
  // is a cut.
  virtual Status Locate(const Row* rows, int64_t n, Sources* sources) const = 0;
  // Copies records that are not in the host's memory, while the table is not locked, and as far as
  // they can be had so. That of row i goes to records[i], which is null where there is none, as for
  // rows touched since the cut. REQUIRES: there is a cut.
  virtual Status ReadAhead(const RowOfId* rows, int64_t n, Buffer* memory,
                           std::vector<const std::byte*>* records) const = 0;

  Status Preserve(const Row* rows, int64_t n);
  void EndCut(const std::shared_ptr<Preserved>& preserved, RowChanges* unsaved);

  SharedMutex own_mutex_;

 protected:
  const TableOptions options_;
  SharedMutex& mutex_;
  std::shared_ptr<Preserved> preserved_;  // GUARDED_BY(mutex_): for the cut there is; else null
  std::optional<RowChanges> changes_;     // GUARDED_BY(mutex_): since the last cut, if tracked
};

}  // namespace recis
