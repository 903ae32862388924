// What Table does for snapshots: cuts of itself, what changed between them, and rows brought back.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/interrupt.h"
#include "base/thread_pool.h"
#include "table/row_loops.h"
#include "table/table.h"

namespace recis {
namespace {
constexpr int64_t kPreservedRows = 16384;  // whose records may be copied from the log at a time
constexpr int64_t kMostListings = 16;      // of one cut
constexpr size_t kColdBytes = size_t{8} << 20;  // so many that the disk is hardly ever idle
}  // namespace

void Table::Track(bool on) {
  WriteLock lock(mutex_);
  if (!on) {
    changes_.reset();
  } else if (!changes_) {
    changes_.emplace();
  }
}

Result<std::shared_ptr<Cut>> Table::TakeCut(bool delta, int64_t pool_bytes, int64_t listed_rows) {
  std::shared_ptr<Cut> cut(new Cut);  // outlives the lock: should memory run out, it is abandoned
  WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Usable());
  if (preserved_) {
    return Unavailable("table '" + options_.name +
                       "' is being saved already: wait for that snapshot to end");
  }
  if (delta && !changes_) {
    return InvalidArgument("table '" + options_.name +
                           "': what changed since the parent is not known, since it was neither "
                           "saved nor loaded by this process: save a full snapshot first");
  }
  cut->table_ = shared_from_this();
  cut->preserved_ = std::make_shared<Preserved>(schema_.used_bytes(), pool_bytes,
                                                static_cast<Row>(directory_.end()));
  cut->slots_ = schema_.slots();
  cut->record_bytes_ = schema_.used_bytes();
  cut->end_ = directory_.end();
  cut->whole_ = !delta || viewed_;
  cut->tracked_ = changes_.has_value();
  if (changes_) {
    cut->changes_ = std::exchange(*changes_, RowChanges());
  }
  preserved_ = cut->preserved_;
  cut->rows_ = cut->whole_ ? directory_.live_rows() : cut->CountRows();
  if (!records_->all_hot()) cut->gathered_bytes_ = kColdBytes;
  // In a table of any size, no more than so many looks at each row.
  cut->listed_rows_ = std::max(listed_rows, cut->rows_ / kMostListings);
  if (!delta) return cut;
  std::vector<int64_t>& freed = cut->changes_.freed;
  std::sort(freed.begin(), freed.end());
  freed.erase(std::unique(freed.begin(), freed.end()), freed.end());
  std::vector<Row> found(freed.size());
  FindRows(freed.data(), static_cast<int64_t>(freed.size()), found.data());
  for (size_t i = 0; i < freed.size(); ++i) {
    if (found[i] == kNoRow) cut->deleted_.push_back(freed[i]);
  }
  return cut;
}

void Table::EndCut(const std::shared_ptr<Preserved>& preserved, RowChanges* unsaved) {
  preserved->Release();  // before the lock: whoever waits for room may go on
  WriteLock lock(mutex_);
  preserved_.reset();
  if (unsaved != nullptr && changes_) changes_->Add(std::move(*unsaved));
}

Table::WriteLock Table::LockToChange() {
  for (;;) {
    WriteLock lock(mutex_);
    if (!preserved_ || !preserved_->full()) return lock;
    const std::shared_ptr<Preserved> preserved = preserved_;
    lock.unlock();
    while (!preserved->WaitForRoom()) ThrowIfInterrupted();
  }
}

Status Table::BeforeChange(const Row* rows, int64_t n) {
  if (preserved_) RECIS_RETURN_IF_ERROR(Preserve(rows, n));
  Touch(rows, n);
  return {};
}

Status Table::Preserve(const Row* rows, int64_t n) {
  std::vector<RowOfId> fresh;
  for (int64_t i = 0; i < n; ++i) {
    if (rows[i] != kNoRow && !preserved_->touched().Has(rows[i])) fresh.push_back({0, rows[i]});
  }
  ParallelFor(static_cast<int64_t>(fresh.size()), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fresh[i].id = directory_.IdOf(fresh[i].row);
  });
  preserved_->DropDone(&fresh);
  std::vector<Row> wanted;
  for (const RowOfId& row : fresh) wanted.push_back(row.row);
  Sources sources;
  for (size_t first = 0; first < fresh.size(); first += kPreservedRows) {
    const auto count =
        std::min<int64_t>(kPreservedRows, static_cast<int64_t>(fresh.size() - first));
    RECIS_RETURN_IF_ERROR(records_->Locate(wanted.data() + first, count, &sources));
    RECIS_RETURN_IF_ERROR(preserved_->Keep(fresh.data() + first, count, sources.data()));
  }
  return {};
}

void Table::Touch(const Row* rows, int64_t n) {
  if (!preserved_ && !changes_) return;
  for (int64_t i = 0; i < n; ++i) {
    if (rows[i] == kNoRow) continue;
    if (changes_) changes_->rows.Add(rows[i]);
    if (preserved_) preserved_->Touch(rows[i]);
  }
}

Status Table::Restore(const int64_t* ids, int64_t n, const std::vector<int>& slots,
                      const std::vector<const std::byte*>& values) {
  if (slots.size() != values.size()) {
    return InvalidArgument("table '" + options_.name + "': " + std::to_string(slots.size()) +
                           " slots to restore and values for " + std::to_string(values.size()));
  }
  WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  for (const int slot : slots) RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found.status();
  Batch& batch = *found.value();
  if (batch.distinct != n) {
    return InvalidArgument("table '" + options_.name + "': of " + std::to_string(n) +
                           " ids to restore only " + std::to_string(batch.distinct) +
                           " are distinct");
  }
  RECIS_RETURN_IF_ERROR(records_->Promote(batch.row_data(), n));
  RECIS_RETURN_IF_ERROR(BeforeChange(batch.row_data(), n));
  const bool drawn = std::find(slots.begin(), slots.end(), 0) == slots.end();
  RECIS_RETURN_IF_ERROR(AdmitLocked(batch, nullptr, drawn));
  const Row* rows = batch.row_data();
  return records_->Update(rows, n, Records::Use::kChange, [&](int64_t first, int64_t count) {
    ParallelFor(count, kRowGrain / 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = first + begin; i < first + end; ++i) {
        for (size_t k = 0; k < slots.size(); ++k) {
          const Slot& slot = schema_.slots()[slots[k]];
          std::memcpy(records_->At(rows[i]) + slot.offset, values[k] + i * slot.bytes(),
                      slot.bytes());
        }
      }
    });
  });
}

}  // namespace recis
