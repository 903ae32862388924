// What Table does for snapshots: what a cut asks of it, and rows brought back.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "table/row_loops.h"
#include "table/table.h"

namespace recis {
namespace {
constexpr size_t kColdBytes = size_t{8} << 20;  // so many that the disk is hardly ever idle
}  // namespace

Result<Table::Moment> Table::BeginCut() {
  return Moment{schema_.slots(), schema_.used_bytes(), directory_.live_rows(), !viewed_,
                records_->all_hot() ? SnapshotSource::kGatheredBytes : kColdBytes};
}

// What is not touched since holds what it held, wherever it has gone. Whatever fails here is read
// again under the lock, and told.
Status Table::ReadAhead(const RowOfId* rows, int64_t n, Buffer* memory,
                        std::vector<const std::byte*>* records) const {
  records->assign(static_cast<size_t>(n), nullptr);
  ColdReads reads;
  {
    const ReadLock lock(mutex_);
    RECIS_RETURN_IF_ERROR(Usable());
    if (records_->all_hot()) return {};
    std::vector<Row> untouched;
    for (int64_t i = 0; i < n; ++i) {
      const Row row = rows[i].row;
      untouched.push_back(preserved_->touched().Has(row) ? kNoRow : row);
    }
    reads = records_->tier()->ReadsOf(untouched.data(), n);
  }
  const auto count = static_cast<int64_t>(reads.requests.size());
  if (!store_->log().Read(reads.requests.data(), count).ok()) return {};
  auto request = reads.requests.begin();
  for (int64_t i = 0; i < n && request != reads.requests.end(); ++i) {
    if (request->row == rows[i].row) (*records)[i] = request++->record;
  }
  *memory = std::move(reads.records);
  return {};
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
