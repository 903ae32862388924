#include "table/table.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "table/row_loops.h"

namespace recis {

Result<std::unique_ptr<Table>> Table::Make(TableOptions options) {
  std::unique_ptr<Table> table(new Table(std::move(options)));
  const TableOptions& made = table->options_;
  if (made.block_rows <= 0) {
    return InvalidArgument("table '" + made.name + "': block_size must be positive, is " +
                           std::to_string(made.block_rows));
  }
  Result<int> embedding =
      table->schema_.Add({.name = "embedding", .dtype = made.dtype, .shape = made.shape});
  if (!embedding.ok()) {
    return Status(embedding.status().code(),
                  "table '" + made.name + "': " + embedding.status().message());
  }
  int64_t block_bytes;
  if (__builtin_mul_overflow(made.block_rows, static_cast<int64_t>(table->schema_.record_bytes()),
                             &block_bytes) ||
      made.block_rows > static_cast<int64_t>(kNoRow)) {
    return InvalidArgument("table '" + made.name + "': a block of " +
                           std::to_string(made.block_rows) + " rows is too large");
  }
  table->arena_ = std::make_unique<Arena>(table->schema_.record_bytes(), made.block_rows);
  table->gradient_ = std::make_unique<Gradient>(made.dtype, table->schema_.slots()[0].count);
  if (!Holds(made.dtype, made.draw.shift)) {
    return InvalidArgument("table '" + made.name + "': " + NameOf(made.dtype) +
                           " cannot start at " + std::to_string(made.draw.shift));
  }
  table->new_record_ = table->NewRecord(table->schema_);
  return table;
}

std::vector<std::byte> Table::NewRecord(const Schema& schema) const {
  std::vector<std::byte> record(schema.record_bytes());
  for (size_t i = 0; i < schema.slots().size(); ++i) {
    const Slot& slot = schema.slots()[i];
    DrawArgs constant;
    constant.shift = i == 0 ? options_.draw.shift : slot.initial;
    ActiveKernels().draw(constant, 0, slot.dtype, slot.count, record.data() + slot.offset);
  }
  return record;
}

Result<std::shared_ptr<Batch>> Table::Insert(const int64_t* ids, int64_t n,
                                             const std::byte* values) {
  WriteLock lock(mutex_);
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found;
  Batch& batch = *found.value();
  RECIS_RETURN_IF_ERROR(AdmitLocked(batch, nullptr));
  std::vector<uint32_t> last(static_cast<size_t>(batch.distinct));
  for (int64_t i = 0; i < n; ++i) last[batch.inverse_data()[i]] = static_cast<uint32_t>(i);
  const size_t bytes = embedding_bytes();
  ParallelFor(batch.distinct, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(arena_->At(batch.row_data()[i]), values + last[i] * bytes, bytes);
    }
  });
  return found;
}

int64_t Table::Evict(const int64_t* ids, int64_t n) {
  WriteLock lock(mutex_);
  Numbering numbers(n);
  for (int64_t i = 0; i < n; ++i) numbers.Number(ids[i]);
  std::vector<Row> found(static_cast<size_t>(numbers.size()));
  FindRows(numbers.ids(), numbers.size(), found.data());
  std::vector<int64_t> evicted;
  std::vector<Row> rows;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] == kNoRow) continue;
    evicted.push_back(numbers.ids()[i]);
    rows.push_back(found[i]);
  }
  if (rows.empty()) return 0;
  const auto count = static_cast<int64_t>(rows.size());
  index_.Erase(evicted.data(), count);
  for (const Row row : rows) {
    std::memset(arena_->At(row), 0, arena_->record_bytes());
    gradient_->Drop(row);
    directory_.Free(row);
  }
  ++eviction_count_;
  evictions_ += count;
  return count;
}

void Table::Clear() {
  WriteLock lock(mutex_);
  evictions_ += directory_.live_rows();
  ++eviction_count_;
  index_.Clear();
  directory_.Clear();
  gradient_->Clear();
  arena_ = std::make_unique<Arena>(schema_.record_bytes(), options_.block_rows);
}

int64_t Table::size() const {
  ReadLock lock(mutex_);
  return directory_.live_rows();
}

int64_t Table::CapacityLocked() const {
  const int64_t block = options_.block_rows;
  return (directory_.end() + block - 1) / block * block;
}

int64_t Table::Capacity() const {
  ReadLock lock(mutex_);
  return CapacityLocked();
}

int64_t Table::IdsMap(int64_t capacity, int64_t* ids, int64_t* rows) const {
  ReadLock lock(mutex_);
  int64_t count = 0;
  for (int64_t row = 0; row < directory_.end() && count < capacity; ++row) {
    if (!directory_.Live(row)) continue;
    ids[count] = directory_.IdOf(static_cast<Row>(row));
    rows[count++] = row;
  }
  return count;
}

TableStats Table::Stats() const {
  ReadLock lock(mutex_);
  TableStats stats;
  stats.rows = directory_.live_rows();
  stats.hits = hits_.load(std::memory_order_acquire);  // before lookups: see CountLookups()
  stats.lookups = lookups_.load(std::memory_order_relaxed);
  stats.misses = stats.lookups - stats.hits;
  stats.admits = admits_;
  stats.refusals = refusals_;
  stats.evictions = evictions_;
  stats.hot_bytes = static_cast<int64_t>(arena_->bytes());
  stats.index_bytes = static_cast<int64_t>(index_.Bytes() + directory_.Bytes());
  stats.gradient_rows = static_cast<int64_t>(gradient_->Entries(false).size());
  return stats;
}

}  // namespace recis
