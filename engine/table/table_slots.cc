// Slots of Table: adding one, and reading and writing them by row.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "table/row_loops.h"
#include "table/table.h"

namespace recis {
namespace {
constexpr int64_t kReadRows = 16384;  // whose records may be copied from the log at a time
}

Result<int> Table::AddSlot(Slot slot) {
  WriteLock lock(mutex_);
  Schema schema = schema_;
  Result<int> added = AddSlotTo(options_, std::move(slot), &schema);
  if (!added.ok()) return added;
  if (schema.slots().size() == schema_.slots().size()) return added;

  RECIS_RETURN_IF_ERROR(records_->Changeable());
  RECIS_RETURN_IF_ERROR(records_->ChangeLayout(LayoutOf(schema), directory_.end(),
                                               [this](Row row) { return directory_.Live(row); }));
  schema_ = std::move(schema);
  return added;
}

std::vector<Slot> Table::Slots() const {
  ReadLock lock(mutex_);
  return schema_.slots();
}

Status Table::CopySlot(const Slot& slot, const Row* rows, int64_t n, std::byte* values) const {
  Sources sources;
  for (int64_t first = 0; first < n; first += kReadRows) {
    const int64_t count = std::min(kReadRows, n - first);
    RECIS_RETURN_IF_ERROR(records_->Locate(rows + first, count, &sources));
    ParallelFor(count, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const std::byte* record = sources.data()[i];
        std::byte* value = values + (first + i) * slot.bytes();
        if (record != nullptr) {
          std::memcpy(value, record + slot.offset, slot.bytes());
        } else {
          std::memset(value, 0, slot.bytes());
        }
      }
    });
  }
  return {};
}

Status Table::ReadSlot(int slot, const int64_t* rows, int64_t n, std::byte* values) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Usable());
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  const std::vector<Row> wanted(rows, rows + n);
  return CopySlot(schema_.slots()[slot], wanted.data(), n, values);
}

Status Table::WriteSlot(int slot, const int64_t* rows, int64_t n, const std::byte* values) {
  const WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  const size_t offset = schema_.slots()[slot].offset, bytes = schema_.slots()[slot].bytes();
  const std::vector<Row> wanted(rows, rows + n);
  RECIS_RETURN_IF_ERROR(BeforeChange(wanted.data(), n));
  return records_->Update(
      wanted.data(), n, Records::Use::kChange, [&](int64_t first, int64_t count) {
        // In order and by one thread: of repeated rows the last wins.
        for (int64_t i = first; i < first + count; ++i) {
          std::memcpy(records_->At(wanted[i]) + offset, values + i * bytes, bytes);
        }
      });
}

Status Table::AddToSlot(int slot, const int64_t* rows, int64_t n, const int64_t* values) {
  const WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  RECIS_RETURN_IF_ERROR(CheckCounter(options_, schema_, slot));
  const Slot& counter = schema_.slots()[slot];
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  const std::vector<Row> wanted(rows, rows + n);
  RECIS_RETURN_IF_ERROR(BeforeChange(wanted.data(), n));
  return records_->Update(
      wanted.data(), n, Records::Use::kChange, [&](int64_t first, int64_t count) {
        for (int64_t i = first; i < first + count; ++i) {
          // Unsigned, so that an overflow wraps as it does in torch.
          auto* sums = reinterpret_cast<uint64_t*>(records_->At(wanted[i]) + counter.offset);
          for (int64_t k = 0; k < counter.count; ++k) {
            sums[k] += static_cast<uint64_t>(values[i * counter.count + k]);
          }
        }
      });
}

Status Table::CheckLive(const int64_t* rows, int64_t n) const {
  ReadLock lock(mutex_);
  return CheckRows(rows, n);
}

Status Table::ReadRecords(const int64_t* rows, int64_t n, std::byte* records) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Usable());
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  const std::vector<Row> wanted(rows, rows + n);
  return CopySlot(WholeRecord(schema_), wanted.data(), n, records);
}

Status Table::WriteRecords(const int64_t* rows, int64_t n, const std::byte* records) {
  const WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  const std::vector<Row> wanted(rows, rows + n);
  RECIS_RETURN_IF_ERROR(BeforeChange(wanted.data(), n));
  // As if they were new, so that no record is read only to be overwritten.
  for (const Row row : wanted) records_->Free(row);
  const size_t bytes = schema_.record_bytes();
  const Status written =
      records_->Update(wanted.data(), n, Records::Use::kNew, [&](int64_t first, int64_t count) {
        ParallelFor(count, kRowGrain, [&](int64_t begin, int64_t end) {
          for (int64_t i = first + begin; i < first + end; ++i) {
            std::memcpy(records_->At(wanted[i]), records + i * bytes, bytes);
          }
        });
      });
  RECIS_CHECK(written.ok());
  return {};
}

Status Table::ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Usable());
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  std::vector<Row> rows(static_cast<size_t>(capacity));
  for (int64_t i = 0; i < capacity; ++i) {
    rows[i] = directory_.Live(i) ? static_cast<Row>(i) : kNoRow;
  }
  return CopySlot(schema_.slots()[slot], rows.data(), capacity, values);
}

Result<BlockView> Table::View(int slot, int64_t block) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  const int64_t blocks = CapacityLocked() / options_.block_rows;
  if (block < 0 || block >= blocks) {
    return OutOfRange("table '" + options_.name + "': block " + std::to_string(block) +
                      " is not there; it has " + std::to_string(blocks));
  }
  viewed_ = true;
  const Row row = static_cast<Row>(block * options_.block_rows);
  return BlockView{records_->arena().SlabOf(row), records_->At(row) + schema_.slots()[slot].offset,
                   static_cast<int64_t>(schema_.record_bytes())};
}

}  // namespace recis
