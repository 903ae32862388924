#include "table/table.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "table/row_loops.h"

namespace recis {

Result<std::shared_ptr<Table>> Table::MakeEmpty(TableOptions options, std::shared_ptr<Store> store,
                                                bool fronted) {
  Result<Schema> schema = SchemaOf(options);
  if (!schema.ok()) return schema.status();
  std::shared_ptr<Table> table(new Table(std::move(options), std::move(store), fronted));
  table->schema_ = std::move(schema.value());
  table->gradient_ =
      std::make_unique<Gradient>(table->options_.dtype, table->schema_.slots()[0].count);
  return table;
}

Result<std::shared_ptr<Table>> Table::Make(TableOptions options) {
  Result<std::shared_ptr<Table>> made = MakeEmpty(std::move(options), nullptr, false);
  if (!made.ok()) return made;
  Table& table = *made.value();
  table.records_ =
      std::make_unique<Records>(table.LayoutOf(table.schema_), table.options_.block_rows);
  return made;
}

RecordLayout Table::LayoutOf(const Schema& schema) const {
  return {schema.record_bytes(), schema.used_bytes(), NewRecord(options_, schema)};
}

Result<std::shared_ptr<Batch>> Table::Insert(const int64_t* ids, int64_t n,
                                             const std::byte* values) {
  const WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found;
  Batch& batch = *found.value();
  // Before anything changes: reading what is cold may fail.
  RECIS_RETURN_IF_ERROR(records_->Promote(batch.row_data(), batch.distinct));
  RECIS_RETURN_IF_ERROR(BeforeChange(batch.row_data(), batch.distinct));
  RECIS_RETURN_IF_ERROR(AdmitLocked(batch, nullptr));
  std::vector<uint32_t> last(static_cast<size_t>(batch.distinct));
  for (int64_t i = 0; i < n; ++i) last[batch.inverse_data()[i]] = static_cast<uint32_t>(i);
  const size_t bytes = embedding_bytes();
  const Row* rows = batch.row_data();
  RECIS_RETURN_IF_ERROR(records_->Update(
      rows, batch.distinct, Records::Use::kChange, [&](int64_t first, int64_t count) {
        ParallelFor(count, kRowGrain, [&](int64_t begin, int64_t end) {
          for (int64_t i = first + begin; i < first + end; ++i) {
            std::memcpy(records_->At(rows[i]), values + last[i] * bytes, bytes);
          }
        });
      }));
  return found;
}

Result<int64_t> Table::Evict(const int64_t* ids, int64_t n) {
  const WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
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
  if (rows.empty()) return int64_t{0};
  const auto count = static_cast<int64_t>(rows.size());
  RECIS_RETURN_IF_ERROR(BeforeChange(rows.data(), count));
  if (changes_) changes_->freed.insert(changes_->freed.end(), evicted.begin(), evicted.end());
  index_.Erase(evicted.data(), count);
  for (const Row row : rows) {
    records_->Free(row);
    gradient_->Drop(row);
    directory_.Free(row);
  }
  records_->Tidy();
  ++eviction_count_;
  evictions_ += count;
  return count;
}

Status Table::Clear() {
  WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  RECIS_RETURN_IF_ERROR(CheckClearable());
  for (int64_t row = 0; changes_ && row < directory_.end(); ++row) {
    if (directory_.Live(row)) changes_->freed.push_back(directory_.IdOf(static_cast<Row>(row)));
  }
  evictions_ += directory_.live_rows();
  ++eviction_count_;
  index_.Clear();
  directory_.Clear();
  gradient_->Clear();
  records_->Clear();
  records_->Tidy();
  return {};
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
  if (const Tier* tier = records_->tier()) {
    const TierStats of_tier = tier->Stats();
    stats.hot_rows = of_tier.hot_rows;
    stats.cold_rows = of_tier.cold_rows;
    stats.cold_bytes = of_tier.cold_rows * static_cast<int64_t>(schema_.used_bytes());
    stats.hot_bytes = of_tier.hot_bytes;
    stats.promotes = of_tier.promotes;
    stats.spills = of_tier.spills;
    stats.drops = of_tier.drops;
  } else {
    stats.hot_rows = stats.rows;
    stats.hot_bytes = static_cast<int64_t>(records_->arena().bytes());
  }
  stats.index_bytes = static_cast<int64_t>(index_.Bytes() + directory_.Bytes());
  stats.gradient_rows = static_cast<int64_t>(gradient_->Entries(false).size());
  return stats;
}

}  // namespace recis
