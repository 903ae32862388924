#include "table/cuttable.h"

#include <algorithm>
#include <string>

#include "base/interrupt.h"
#include "base/thread_pool.h"
#include "table/row_loops.h"

namespace recis {
namespace {
constexpr int64_t kPreservedRows = 16384;  // whose records may be copied to the host at a time
constexpr int64_t kMostListings = 16;      // of one cut
}  // namespace

Status Cuttable::Track(bool on) {
  const WriteLock lock(mutex_);
  if (!on) {
    changes_.reset();
  } else if (!changes_) {
    RECIS_RETURN_IF_ERROR(ForgetChanges());
    changes_.emplace();
  }
  return {};
}

Result<std::shared_ptr<Cut>> Cuttable::TakeCut(bool delta, int64_t pool_bytes,
                                               int64_t listed_rows) {
  std::shared_ptr<Cut> cut(new Cut);  // outlives the lock: should memory run out, it is abandoned
  const WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(Usable());
  if (preserved_) {
    return Unavailable("table '" + options_.name +
                       "' is being saved already: wait for that snapshot to end");
  }
  if (delta && !changes_) {
    return InvalidArgument("table '" + options_.name +
                           "': what changed since the parent is not known, since it was neither "
                           "saved nor loaded by this process: save a full snapshot first");
  }
  Result<Moment> begun = BeginCut();
  if (!begun.ok()) return begun.status();
  Moment& moment = begun.value();
  cut->end_ = directory().end();
  cut->preserved_ =
      std::make_shared<Preserved>(moment.record_bytes, pool_bytes, static_cast<Row>(cut->end_));
  cut->table_ = shared_from_this();
  cut->slots_ = std::move(moment.slots);
  cut->record_bytes_ = moment.record_bytes;
  cut->gathered_bytes_ = moment.gathered_bytes;
  cut->whole_ = !delta || !moment.all_seen;
  cut->tracked_ = changes_.has_value();
  if (changes_) {
    cut->changes_ = std::exchange(*changes_, RowChanges());
  }
  preserved_ = cut->preserved_;
  cut->rows_ = cut->whole_ ? moment.rows : cut->CountRows();
  // In a table of any size, no more than so many looks at each row.
  cut->listed_rows_ = std::max(listed_rows, cut->rows_ / kMostListings);
  if (!delta) return cut;
  std::vector<int64_t>& freed = cut->changes_.freed;
  std::sort(freed.begin(), freed.end());
  freed.erase(std::unique(freed.begin(), freed.end()), freed.end());
  std::vector<Row> found(freed.size());
  RECIS_RETURN_IF_ERROR(FindIds(freed.data(), static_cast<int64_t>(freed.size()), found.data()));
  for (size_t i = 0; i < freed.size(); ++i) {
    if (found[i] == kNoRow) cut->deleted_.push_back(freed[i]);
  }
  return cut;
}

void Cuttable::EndCut(const std::shared_ptr<Preserved>& preserved, RowChanges* unsaved) {
  preserved->Release();  // before the lock: whoever waits for room may go on
  const WriteLock lock(mutex_);
  preserved_.reset();
  CutEnded();
  if (unsaved != nullptr && changes_) changes_->Add(std::move(*unsaved));
}

Status Cuttable::CheckClearable() const {
  return !preserved_ ? Status()
                     : Unavailable("table '" + options_.name +
                                   "' is being saved and cannot be cleared: wait for that "
                                   "snapshot to end");
}

Cuttable::WriteLock Cuttable::LockToChange() {
  for (;;) {
    WriteLock lock(mutex_);
    if (!preserved_ || !preserved_->full()) return lock;
    const std::shared_ptr<Preserved> preserved = preserved_;
    lock.unlock();
    while (!preserved->WaitForRoom()) ThrowIfInterrupted();
  }
}

Status Cuttable::BeforeChange(const Row* rows, int64_t n) {
  if (preserved_) RECIS_RETURN_IF_ERROR(Preserve(rows, n));
  Touch(rows, n);
  return {};
}

Status Cuttable::Preserve(const Row* rows, int64_t n) {
  std::vector<RowOfId> fresh;
  for (int64_t i = 0; i < n; ++i) {
    if (rows[i] != kNoRow && !preserved_->touched().Has(rows[i])) fresh.push_back({0, rows[i]});
  }
  const Directory& known = directory();
  ParallelFor(static_cast<int64_t>(fresh.size()), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Row& row = fresh[i].row;
      if (known.Live(row)) {
        fresh[i].id = known.IdOf(row);
      } else {
        row = kNoRow;  // is not of the cut
      }
    }
  });
  std::erase_if(fresh, [](const RowOfId& row) { return row.row == kNoRow; });
  preserved_->DropDone(&fresh);
  std::vector<Row> wanted;
  for (const RowOfId& row : fresh) wanted.push_back(row.row);
  Sources sources;
  for (size_t first = 0; first < fresh.size(); first += kPreservedRows) {
    const auto count =
        std::min<int64_t>(kPreservedRows, static_cast<int64_t>(fresh.size() - first));
    RECIS_RETURN_IF_ERROR(Locate(wanted.data() + first, count, &sources));
    RECIS_RETURN_IF_ERROR(preserved_->Keep(fresh.data() + first, count, sources.data()));
  }
  return {};
}

void Cuttable::Touch(const Row* rows, int64_t n) {
  if (!preserved_ && !changes_) return;
  for (int64_t i = 0; i < n; ++i) {
    if (rows[i] == kNoRow) continue;
    if (changes_) changes_->rows.Add(rows[i]);
    if (preserved_) preserved_->Touch(rows[i]);
  }
}

}  // namespace recis
