// Slots of Table: adding one, and reading and writing them by row.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "table/row_loops.h"
#include "table/table.h"

namespace recis {

Status Table::CheckSlot(int slot) const {
  if (slot >= 0 && slot < static_cast<int>(schema_.slots().size())) return {};
  return OutOfRange("table '" + options_.name + "': slot " + std::to_string(slot) +
                    " is not there; it has " + std::to_string(schema_.slots().size()));
}

Result<int> Table::AddSlot(Slot slot) {
  WriteLock lock(mutex_);
  Schema schema = schema_;
  Result<int> added = schema.Add(std::move(slot));
  if (!added.ok()) {
    return Status(added.status().code(),
                  "table '" + options_.name + "': " + added.status().message());
  }
  if (schema.slots().size() == schema_.slots().size()) return added;

  // One pass moves every record to an arena of wider ones. Address space for all of them
  // is taken first, so that it cannot fail half way; pages are touched as records arrive,
  // and each old slab goes back to the system once it is empty.
  auto arena = std::make_unique<Arena>(schema.record_bytes(), options_.block_rows);
  RECIS_RETURN_IF_ERROR(arena->Reserve(directory_.end()));
  std::vector<std::byte> new_record = NewRecord(schema);
  const size_t old_bytes = schema_.record_bytes();
  schema_ = std::move(schema);
  new_record_ = std::move(new_record);
  const size_t kept = std::min(old_bytes, schema_.slots()[added.value()].offset);
  const int64_t step = arena_->slab_rows();
  for (int64_t first = 0; first < directory_.end(); first += step) {
    const int64_t count = std::min(step, directory_.end() - first);
    ParallelFor(count, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = first + begin; i < first + end; ++i) {
        const Row row = static_cast<Row>(i);
        if (!directory_.Live(row)) continue;
        std::byte* record = arena->At(row);
        std::memcpy(record, new_record_.data(), new_record_.size());
        std::memcpy(record, arena_->At(row), kept);
      }
    });
    arena_->ReleaseSlab(static_cast<size_t>(first / step));
  }
  arena_ = std::move(arena);
  return added;
}

std::vector<Slot> Table::Slots() const {
  ReadLock lock(mutex_);
  return schema_.slots();
}

Status Table::ReadSlot(int slot, const int64_t* rows, int64_t n, std::byte* values) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  const size_t offset = schema_.slots()[slot].offset, bytes = schema_.slots()[slot].bytes();
  ParallelFor(n, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(values + i * bytes, arena_->At(static_cast<Row>(rows[i])) + offset, bytes);
    }
  });
  return {};
}

Status Table::WriteSlot(int slot, const int64_t* rows, int64_t n, const std::byte* values) {
  WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  const size_t offset = schema_.slots()[slot].offset, bytes = schema_.slots()[slot].bytes();
  // In order and by one thread: of repeated rows the last wins.
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(arena_->At(static_cast<Row>(rows[i])) + offset, values + i * bytes, bytes);
  }
  return {};
}

Status Table::AddToSlot(int slot, const int64_t* rows, int64_t n, const int64_t* values) {
  WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  const Slot& counter = schema_.slots()[slot];
  if (counter.dtype != DType::kInt64) {
    return InvalidArgument("table '" + options_.name + "': slot '" + counter.name + "' holds " +
                           NameOf(counter.dtype) + ": only int64 slots can be added to");
  }
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  for (int64_t i = 0; i < n; ++i) {
    // Unsigned, so that an overflow wraps as it does in torch.
    auto* sums =
        reinterpret_cast<uint64_t*>(arena_->At(static_cast<Row>(rows[i])) + counter.offset);
    for (int64_t k = 0; k < counter.count; ++k) {
      sums[k] += static_cast<uint64_t>(values[i * counter.count + k]);
    }
  }
  return {};
}

Status Table::ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  const size_t offset = schema_.slots()[slot].offset, bytes = schema_.slots()[slot].bytes();
  ParallelFor(capacity, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (directory_.Live(i)) {
        std::memcpy(values + i * bytes, arena_->At(static_cast<Row>(i)) + offset, bytes);
      } else {
        std::memset(values + i * bytes, 0, bytes);
      }
    }
  });
  return {};
}

Result<BlockView> Table::Block(int slot, int64_t block) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  const int64_t blocks = CapacityLocked() / options_.block_rows;
  if (block < 0 || block >= blocks) {
    return OutOfRange("table '" + options_.name + "': block " + std::to_string(block) +
                      " is not there; it has " + std::to_string(blocks));
  }
  const Row row = static_cast<Row>(block * options_.block_rows);
  return BlockView{arena_->SlabOf(row), arena_->At(row) + schema_.slots()[slot].offset,
                   static_cast<int64_t>(arena_->record_bytes())};
}

}  // namespace recis
