#include "table/table.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/thread_pool.h"

namespace recis {
namespace {

constexpr int64_t kGrain = 1024;    // rows below which a thread does not pay
constexpr int kBlockIds = 64;       // ids whose records are fetched before they are copied
constexpr int kUpdateRows = 16;     // the same for an optimizer step
constexpr size_t kCacheLine = 64;
constexpr int64_t kMaxBatch = std::numeric_limits<int32_t>::max();

void Fetch(const std::byte* data, size_t bytes) {
  // The processor follows a run by itself once it has seen its start.
  const size_t fetched = std::min<size_t>(bytes, 4 * kCacheLine);
  for (size_t i = 0; i < fetched; i += kCacheLine) __builtin_prefetch(data + i);
}

Status CheckBatch(const std::string& name, int64_t n) {
  if (n <= kMaxBatch) return {};
  return InvalidArgument("table '" + name + "': " + std::to_string(n) +
                         " ids in one call; at most 2^31 - 1, so cut the batch");
}

}  // namespace

// ---- making -------------------------------------------------------------------------

Result<std::unique_ptr<Table>> Table::Make(TableOptions options) {
  std::unique_ptr<Table> table(new Table(std::move(options)));
  const TableOptions& made = table->options_;
  if (made.block_rows <= 0) {
    return InvalidArgument("table '" + made.name + "': block_size must be positive, is " +
                           std::to_string(made.block_rows));
  }
  Result<int> embedding =
      table->schema_.Add({.name = "embedding", .dtype = made.dtype, .shape = made.shape});
  if (!embedding.ok()) return embedding.status();
  int64_t block_bytes;
  if (__builtin_mul_overflow(made.block_rows,
                             static_cast<int64_t>(table->schema_.record_bytes()), &block_bytes) ||
      made.block_rows > static_cast<int64_t>(kNoRow)) {
    return InvalidArgument("table '" + made.name + "': a block of " +
                           std::to_string(made.block_rows) + " rows is too large");
  }
  table->arena_ = std::make_unique<Arena>(table->schema_.record_bytes(), made.block_rows);
  table->gradient_ = std::make_unique<Gradient>(made.dtype, table->schema_.slots()[0].count);
  table->RenewTemplate();
  return table;
}

void Table::RenewTemplate() {
  new_record_.assign(schema_.record_bytes(), std::byte{0});
  for (size_t i = 0; i < schema_.slots().size(); ++i) {
    const Slot& slot = schema_.slots()[i];
    DrawArgs constant;
    constant.shift = i == 0 ? options_.draw.shift : slot.initial;
    ActiveKernels().draw(constant, 0, slot.dtype, slot.count, new_record_.data() + slot.offset);
  }
}

// ---- lookup -------------------------------------------------------------------------

void Table::FindRows(const int64_t* ids, int64_t n, Row* rows) const {
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
    index_.Find(ids + begin, end - begin, rows + begin);
  });
}

Status Table::Read(const int64_t* ids, int64_t n, std::byte* out, bool stream) const {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_.name, n));
  ReadLock lock(mutex_);
  const size_t bytes = embedding_bytes();
  std::atomic<int64_t> hits{0};
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
    Row rows[kBlockIds];
    const std::byte* records[kBlockIds];
    int64_t found = 0;
    for (int64_t i = begin; i < end; i += kBlockIds) {
      const int count = static_cast<int>(std::min<int64_t>(kBlockIds, end - i));
      index_.Find(ids + i, count, rows);
      for (int k = 0; k < count; ++k) {
        records[k] = rows[k] == kNoRow ? nullptr : arena_->At(rows[k]);
        found += rows[k] != kNoRow;
        Fetch(records[k], bytes);
      }
      ActiveKernels().gather(records, count, bytes, out + i * bytes, stream);
    }
    hits.fetch_add(found, std::memory_order_relaxed);
  });
  lookups_.fetch_add(n, std::memory_order_relaxed);
  hits_.fetch_add(hits.load(), std::memory_order_relaxed);
  return {};
}

Result<std::shared_ptr<Batch>> Table::FindLocked(const int64_t* ids, int64_t n) const {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_.name, n));
  auto batch = std::make_shared<Batch>();
  Numbering numbers(n);
  batch->size = n;
  batch->inverse = BufferCache::Get(static_cast<size_t>(n) * sizeof(uint32_t));
  uint32_t* inverse = batch->inverse.as<uint32_t>();
  for (int64_t i = 0; i < n; ++i) inverse[i] = numbers.Number(ids[i]);
  batch->distinct = numbers.size();
  batch->ids = numbers.TakeIds();
  batch->rows = BufferCache::Get(static_cast<size_t>(batch->distinct) * sizeof(Row));
  FindRows(batch->id_data(), batch->distinct, batch->row_data());
  batch->evictions = eviction_count_;
  return batch;
}

// Another thread may have freed or made rows since they were found.
void Table::Refresh(Batch& batch) const {
  if (batch.evictions == eviction_count_) return;
  FindRows(batch.id_data(), batch.distinct, batch.row_data());
  batch.evictions = eviction_count_;
}

void Table::GatherLocked(const Batch& batch, std::byte* out, bool stream) const {
  const size_t bytes = embedding_bytes();
  const Row* rows = batch.row_data();
  const uint32_t* inverse = batch.inverse_data();
  ParallelFor(batch.size, kGrain, [&](int64_t begin, int64_t end) {
    const std::byte* records[kBlockIds];
    for (int64_t i = begin; i < end; i += kBlockIds) {
      const int count = static_cast<int>(std::min<int64_t>(kBlockIds, end - i));
      for (int k = 0; k < count; ++k) {
        const Row row = rows[inverse[i + k]];
        records[k] = row == kNoRow ? nullptr : arena_->At(row);
        Fetch(records[k], bytes);
      }
      ActiveKernels().gather(records, count, bytes, out + i * bytes, stream);
    }
  });
}

void Table::InitialiseRecords(const int64_t* ids, const Row* rows, int64_t n) {
  const bool drawn = options_.draw.distribution != Distribution::kConstant;
  const Slot& embedding = schema_.slots()[0];
  ParallelFor(n, kGrain / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::byte* record = arena_->At(rows[i]);
      std::memcpy(record, new_record_.data(), new_record_.size());
      if (drawn) {
        ActiveKernels().draw(options_.draw, ids[i], embedding.dtype, embedding.count,
                             record + embedding.offset);
      }
      directory_.Bind(rows[i], ids[i]);
    }
  });
}

Status Table::AdmitLocked(Batch& batch, const bool* admit) {
  const int64_t* ids = batch.id_data();
  Row* rows = batch.row_data();
  std::vector<uint32_t> admitted;
  for (int64_t i = 0; i < batch.distinct; ++i) {
    if (rows[i] == kNoRow && (admit == nullptr || admit[i])) {
      admitted.push_back(static_cast<uint32_t>(i));
    }
  }
  if (admitted.empty()) return {};
  // Rows are handed out from the last new id to the first.
  std::reverse(admitted.begin(), admitted.end());
  const auto count = static_cast<int64_t>(admitted.size());
  const Buffer id_buffer = BufferCache::Get(admitted.size() * sizeof(int64_t));
  const Buffer row_buffer = BufferCache::Get(admitted.size() * sizeof(Row));
  int64_t* new_ids = id_buffer.as<int64_t>();
  Row* new_rows = row_buffer.as<Row>();
  for (int64_t i = 0; i < count; ++i) new_ids[i] = ids[admitted[i]];

  // All that can fail comes before all that changes.
  RECIS_RETURN_IF_ERROR(directory_.Reserve(count));
  RECIS_RETURN_IF_ERROR(arena_->Reserve(directory_.EndAfter(count)));
  RECIS_RETURN_IF_ERROR(index_.Reserve(new_ids, count));
  directory_.Allocate(count, new_rows);
  index_.Insert(new_ids, new_rows, count);
  InitialiseRecords(new_ids, new_rows, count);
  for (int64_t i = 0; i < count; ++i) rows[admitted[i]] = new_rows[i];
  admits_ += count;
  return {};
}

Result<std::shared_ptr<Batch>> Table::Lookup(const int64_t* ids, int64_t n,
                                             AdmissionPolicy* policy, std::byte* out,
                                             bool stream) {
  WriteLock lock(mutex_);
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found;
  Batch& batch = *found.value();
  const Row* rows = batch.row_data();

  std::vector<uint32_t> unknown;
  for (int64_t i = 0; i < batch.distinct; ++i) {
    if (rows[i] == kNoRow) unknown.push_back(static_cast<uint32_t>(i));
  }
  int64_t misses = 0;
  if (!unknown.empty()) {
    std::vector<uint32_t> counts(static_cast<size_t>(batch.distinct), 0);
    for (int64_t i = 0; i < n; ++i) ++counts[batch.inverse_data()[i]];
    for (const uint32_t i : unknown) misses += counts[i];
    if (policy == nullptr) {
      RECIS_RETURN_IF_ERROR(AdmitLocked(batch, nullptr));
    } else {
      const size_t u = unknown.size();
      std::vector<int64_t> unknown_ids(u);
      std::vector<uint32_t> unknown_counts(u);
      for (size_t i = 0; i < u; ++i) {
        unknown_ids[i] = batch.id_data()[unknown[i]];
        unknown_counts[i] = counts[unknown[i]];
      }
      const auto answer = std::make_unique<bool[]>(u);
      policy->Admit(unknown_ids.data(), unknown_counts.data(), static_cast<int64_t>(u),
                    answer.get());
      const auto admit = std::make_unique<bool[]>(static_cast<size_t>(batch.distinct));
      for (size_t i = 0; i < u; ++i) admit[unknown[i]] = answer[i];
      RECIS_RETURN_IF_ERROR(AdmitLocked(batch, admit.get()));
      refusals_ += std::count(answer.get(), answer.get() + u, false);
    }
  }
  GatherLocked(batch, out, stream);
  lookups_.fetch_add(n, std::memory_order_relaxed);
  hits_.fetch_add(n - misses, std::memory_order_relaxed);
  return found;
}

Result<std::shared_ptr<Batch>> Table::Find(const int64_t* ids, int64_t n) const {
  ReadLock lock(mutex_);
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found;
  const Batch& batch = *found.value();
  int64_t hits = 0;
  for (int64_t i = 0; i < n; ++i) hits += batch.row_data()[batch.inverse_data()[i]] != kNoRow;
  lookups_.fetch_add(n, std::memory_order_relaxed);
  hits_.fetch_add(hits, std::memory_order_relaxed);
  return found;
}

Status Table::AdmitFound(Batch& batch, const bool* admit) {
  WriteLock lock(mutex_);
  const auto unknown = std::count(batch.row_data(), batch.row_data() + batch.distinct, kNoRow);
  // Find again: another thread may have admitted or evicted in between.
  FindRows(batch.id_data(), batch.distinct, batch.row_data());
  batch.evictions = eviction_count_;
  const int64_t before = admits_;
  RECIS_RETURN_IF_ERROR(AdmitLocked(batch, admit));
  refusals_ += std::max<int64_t>(unknown - (admits_ - before), 0);
  return {};
}

Status Table::Gather(Batch& batch, std::byte* out, bool stream) const {
  ReadLock lock(mutex_);
  Refresh(batch);
  GatherLocked(batch, out, stream);
  return {};
}

void Table::Contains(const int64_t* ids, int64_t n, bool* out) const {
  ReadLock lock(mutex_);
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
    Row rows[kBlockIds];
    for (int64_t i = begin; i < end; i += kBlockIds) {
      const int64_t count = std::min<int64_t>(kBlockIds, end - i);
      index_.Find(ids + i, count, rows);
      for (int64_t k = 0; k < count; ++k) out[i + k] = rows[k] != kNoRow;
    }
  });
}

void Table::Rows(const int64_t* ids, int64_t n, int64_t* rows) const {
  ReadLock lock(mutex_);
  const Buffer found = BufferCache::Get(static_cast<size_t>(n) * sizeof(Row));
  FindRows(ids, n, found.as<Row>());
  std::transform(found.as<Row>(), found.as<Row>() + n, rows,
                 [](Row row) { return row == kNoRow ? int64_t{-1} : int64_t{row}; });
}

// ---- change -------------------------------------------------------------------------

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
  ParallelFor(batch.distinct, kGrain, [&](int64_t begin, int64_t end) {
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

// ---- gradient -----------------------------------------------------------------------

Status Table::Accumulate(const Batch& batch, const void* values, DType dtype, bool mean,
                         double divisor) {
  const Occurrences occurrences(batch);
  WriteLock lock(mutex_);
  const Row* rows = batch.row_data();
  std::vector<Row> checked;
  if (batch.evictions != eviction_count_) {
    // A row may be another id's by now.
    checked.assign(rows, rows + batch.distinct);
    for (int64_t i = 0; i < batch.distinct; ++i) {
      const Row row = rows[i];
      if (row == kNoRow) continue;
      if (!directory_.Live(row) || directory_.IdOf(row) != batch.id_data()[i]) {
        checked[i] = kNoRow;
      }
    }
    rows = checked.data();
  }
  gradient_->Add(rows, batch.distinct, occurrences, values, dtype, mean, divisor);
  return {};
}

Status Table::CheckRows(const int64_t* rows, int64_t n) const {
  for (int64_t i = 0; i < n; ++i) {
    if (!directory_.Live(rows[i])) {
      return OutOfRange("table '" + options_.name + "': row " + std::to_string(rows[i]) +
                        " (position " + std::to_string(i) + ") is not in use; the table has " +
                        std::to_string(directory_.live_rows()) +
                        " rows, ids_map() lists them");
    }
  }
  return {};
}

Status Table::AccumulateRows(const int64_t* rows, int64_t n, const void* values, DType dtype) {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_.name, n));
  WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  Numbering numbers(n);
  std::vector<uint32_t> inverse(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) inverse[i] = numbers.Number(rows[i]);
  std::vector<Row> distinct(numbers.ids(), numbers.ids() + numbers.size());
  const Occurrences occurrences(inverse.data(), n, numbers.size());
  gradient_->Add(distinct.data(), numbers.size(), occurrences, values, dtype, false, 1);
  return {};
}

int64_t Table::GradientRows() const {
  ReadLock lock(mutex_);
  return static_cast<int64_t>(gradient_->Entries(false).size());
}

int64_t Table::ReadGradient(int64_t capacity, double divisor, int64_t* rows,
                            std::byte* values) const {
  ReadLock lock(mutex_);
  std::vector<Gradient::Entry> entries = gradient_->Entries(true);
  if (static_cast<int64_t>(entries.size()) > capacity) entries.resize(capacity);
  const size_t bytes = gradient_->row_bytes();
  const int64_t dim = schema_.slots()[0].count;
  for (size_t i = 0; i < entries.size(); ++i) {
    rows[i] = entries[i].row;
    std::memcpy(values + i * bytes, gradient_->At(entries[i].index), bytes);
  }
  if (divisor == 1) return static_cast<int64_t>(entries.size());
  const int64_t count = static_cast<int64_t>(entries.size()) * dim;
  if (AccumulatorOf(options_.dtype) == DType::kFloat64) {
    auto* wide = reinterpret_cast<double*>(values);
    for (int64_t i = 0; i < count; ++i) wide[i] /= divisor;
  } else {
    auto* narrow = reinterpret_cast<float*>(values);
    for (int64_t i = 0; i < count; ++i) narrow[i] /= static_cast<float>(divisor);
  }
  return static_cast<int64_t>(entries.size());
}

void Table::ClearGradient() {
  WriteLock lock(mutex_);
  gradient_->Clear();
}

// ---- optimizer ----------------------------------------------------------------------

Status Table::Step(const RuleParams& params, const std::vector<int>& states) {
  WriteLock lock(mutex_);
  if (!IsFloating(options_.dtype)) {
    return InvalidArgument("table '" + options_.name + "' holds " + NameOf(options_.dtype) +
                           ": only floating-point tables can be trained");
  }
  UpdateArgs shared{};
  shared.dim = schema_.slots()[0].count;
  shared.dtype = options_.dtype;
  shared.weight_offset = schema_.slots()[0].offset;
  shared.params = &params;
  for (size_t i = 0; i < states.size(); ++i) {
    RECIS_RETURN_IF_ERROR(CheckSlot(states[i]));
    const Slot& slot = schema_.slots()[states[i]];
    const int64_t wanted = params.rule == Rule::kRowWiseAdagrad ? 1 : shared.dim;
    if (i >= kMaxStates || slot.dtype != AccumulatorOf(options_.dtype) || slot.count != wanted) {
      return InvalidArgument("table '" + options_.name + "': slot '" + slot.name + "' is " +
                             NameOf(slot.dtype) + " " + ToString(slot.shape) +
                             ", which this optimizer cannot use as its state");
    }
    shared.state_offsets[i] = slot.offset;
  }
  const std::vector<Gradient::Entry> entries = gradient_->Entries(false);
  const size_t used = schema_.used_bytes();
  ParallelFor(static_cast<int64_t>(entries.size()), kGrain / 4, [&](int64_t begin, int64_t end) {
    std::byte* records[2][kUpdateRows];
    const void* gradients[2][kUpdateRows];
    const auto fetch = [&](int64_t first, int half) {
      const int64_t count = std::min<int64_t>(kUpdateRows, end - first);
      for (int64_t k = 0; k < count; ++k) {
        const Gradient::Entry& entry = entries[first + k];
        records[half][k] = arena_->At(entry.row);
        gradients[half][k] = gradient_->At(entry.index);
        for (size_t i = 0; i < used; i += kCacheLine) {
          __builtin_prefetch(records[half][k] + i, 1);
        }
      }
    };
    UpdateArgs args = shared;
    int half = 0;
    fetch(begin, half);
    for (int64_t i = begin; i < end; i += kUpdateRows, half ^= 1) {
      if (i + kUpdateRows < end) fetch(i + kUpdateRows, half ^ 1);
      args.records = records[half];
      args.gradients = gradients[half];
      args.n = std::min<int64_t>(kUpdateRows, end - i);
      ActiveKernels().update(args);
    }
  });
  return {};
}

// ---- slots --------------------------------------------------------------------------

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
  const size_t old_bytes = schema_.record_bytes();
  schema_ = std::move(schema);
  RenewTemplate();
  const size_t kept = std::min(old_bytes, schema_.slots()[added.value()].offset);
  const int64_t step = arena_->slab_rows();
  for (int64_t first = 0; first < directory_.end(); first += step) {
    const int64_t count = std::min(step, directory_.end() - first);
    ParallelFor(count, kGrain, [&](int64_t begin, int64_t end) {
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
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
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

Status Table::ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckSlot(slot));
  const size_t offset = schema_.slots()[slot].offset, bytes = schema_.slots()[slot].bytes();
  ParallelFor(capacity, kGrain, [&](int64_t begin, int64_t end) {
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

// ---- whole table --------------------------------------------------------------------

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
  stats.lookups = lookups_.load();
  stats.hits = hits_.load();
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
