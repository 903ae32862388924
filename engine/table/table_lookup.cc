// Finding, admitting and copying out: the part of Table that every batch goes through.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "table/row_loops.h"
#include "table/table.h"

namespace recis {

// Stats() may run beside this: it must not see hits whose lookups it has missed.
void Table::CountLookups(int64_t n, int64_t hits) const {
  lookups_.fetch_add(n, std::memory_order_relaxed);
  hits_.fetch_add(hits, std::memory_order_release);
}

void Table::SetTimes(const uint32_t* times, Batch& batch) {
  if (times == nullptr) return;
  const size_t bytes = static_cast<size_t>(batch.size) * sizeof(uint32_t);
  batch.times = BufferCache::Get(bytes);
  std::memcpy(batch.times.data(), times, bytes);
}

void Table::CountBatch(const Batch& batch) const {
  int64_t hits = 0;
  for (int64_t i = 0; i < batch.size; ++i) {
    hits += batch.row_data()[batch.inverse_data()[i]] != kNoRow;
  }
  CountLookups(batch.size, hits);
}

void Table::FindRows(const int64_t* ids, int64_t n, Row* rows) const {
  ParallelFor(n, kRowGrain, [&](int64_t begin, int64_t end) {
    index_.Find(ids + begin, end - begin, rows + begin);
  });
}

Status Table::Read(const int64_t* ids, int64_t n, std::byte* out, bool stream) const {
  RECIS_RETURN_IF_ERROR(CheckBatch(n));
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Usable());
  if (records_->all_hot()) return ReadHot(ids, n, out, stream);
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found.status();
  RECIS_RETURN_IF_ERROR(GatherLocked(*found.value(), out, stream));
  CountBatch(*found.value());
  return {};
}

Status Table::ReadHot(const int64_t* ids, int64_t n, std::byte* out, bool stream) const {
  const size_t bytes = embedding_bytes();
  std::atomic<int64_t> hits{0};
  ParallelFor(n, kRowGrain, [&](int64_t begin, int64_t end) {
    // Three stages, each a block ahead of the next: buckets on their way, records on their
    // way, records copied.
    const std::byte* records[2][Index::kBlockIds];
    int64_t found = 0, copied = begin;
    const auto copy = [&](int64_t until, int half) {
      ActiveKernels().gather(records[half], until - copied, bytes, out + copied * bytes, stream);
      copied = until;
    };
    int half = 0;
    index_.FindInBlocks(ids + begin, end - begin, [&](int64_t first, const Row* rows, int count) {
      for (int k = 0; k < count; ++k) {
        records[half][k] = rows[k] == kNoRow ? nullptr : records_->At(rows[k]);
        found += rows[k] != kNoRow;
        Fetch(records[half][k], bytes);
      }
      half ^= 1;
      if (first > 0) copy(begin + first, half);
    });
    copy(end, half ^ 1);
    hits.fetch_add(found, std::memory_order_relaxed);
  });
  CountLookups(n, hits.load());
  return {};
}

Result<std::shared_ptr<Batch>> Table::FindLocked(const int64_t* ids, int64_t n) const {
  RECIS_RETURN_IF_ERROR(CheckBatch(n));
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

uint64_t Table::PrefetchOf(const Batch& batch) const {
  if (records_->all_hot()) return 0;
  return in_flight_.Reading(batch.row_data(), batch.distinct, [this](Row row) {
    return row != kNoRow && records_->tier()->cold(row);
  });
}

Status Table::GatherLocked(const Batch& batch, std::byte* out, bool stream) const {
  const size_t bytes = embedding_bytes();
  const Row* rows = batch.row_data();
  const uint32_t* inverse = batch.inverse_data();
  Sources sources;
  const std::byte* const* located = nullptr;
  if (!records_->all_hot()) {
    RECIS_RETURN_IF_ERROR(records_->Locate(rows, batch.distinct, &sources));
    located = sources.data();
  }
  ParallelFor(batch.size, kRowGrain, [&](int64_t begin, int64_t end) {
    const std::byte* records[kBlockIds];
    for (int64_t i = begin; i < end; i += kBlockIds) {
      const int count = static_cast<int>(std::min<int64_t>(kBlockIds, end - i));
      for (int k = 0; k < count; ++k) {
        const uint32_t of = inverse[i + k];
        records[k] = located != nullptr   ? located[of]
                     : rows[of] == kNoRow ? nullptr
                                          : records_->At(rows[of]);
        Fetch(records[k], bytes);
      }
      ActiveKernels().gather(records, count, bytes, out + i * bytes, stream);
    }
  });
  return {};
}

// REQUIRES: their records are hot.
void Table::InitialiseRecords(const int64_t* ids, const Row* rows, int64_t n, bool drawn) {
  drawn = drawn && options_.draw.distribution != Distribution::kConstant;
  const Slot& embedding = schema_.slots()[0];
  const std::vector<std::byte>& new_record = records_->layout().new_record;
  ParallelFor(n, kRowGrain / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::byte* record = records_->At(rows[i]);
      std::memcpy(record, new_record.data(), new_record.size());
      if (drawn) {
        ActiveKernels().draw(options_.draw, ids[i], embedding.dtype, embedding.count,
                             record + embedding.offset);
      }
      directory_.Bind(rows[i], ids[i]);
    }
  });
}

Status Table::AdmitLocked(Batch& batch, const bool* admit, bool drawn) {
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
  RECIS_RETURN_IF_ERROR(records_->Reserve(directory_.EndAfter(count)));
  RECIS_RETURN_IF_ERROR(index_.Reserve(new_ids, count));
  directory_.Allocate(count, new_rows);
  index_.Insert(new_ids, new_rows, count);
  Touch(new_rows, count);
  // Records without a past are never read, so this cannot fail.
  const Status made =
      records_->Update(new_rows, count, Records::Use::kNew, [&](int64_t first, int64_t made_now) {
        InitialiseRecords(new_ids + first, new_rows + first, made_now, drawn);
      });
  RECIS_CHECK(made.ok());
  for (int64_t i = 0; i < count; ++i) rows[admitted[i]] = new_rows[i];
  admits_ += count;
  return {};
}

Result<std::shared_ptr<Batch>> Table::Lookup(const int64_t* ids, int64_t n, AdmissionPolicy* policy,
                                             std::byte* out, bool stream, const uint32_t* times) {
  WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found;
  Batch& batch = *found.value();
  SetTimes(times, batch);
  const Row* rows = batch.row_data();
  if (const uint64_t prefetch = PrefetchOf(batch)) {
    lock.unlock();
    in_flight_.Await(prefetch);
    lock = LockToChange();
    RECIS_RETURN_IF_ERROR(records_->Changeable());
    FindRows(batch.id_data(), batch.distinct, batch.row_data());
    batch.evictions = eviction_count_;
  }
  // Before anything changes: reading what is cold may fail.
  RECIS_RETURN_IF_ERROR(records_->Promote(rows, batch.distinct));

  std::vector<uint32_t> unknown;
  for (int64_t i = 0; i < batch.distinct; ++i) {
    if (rows[i] == kNoRow) unknown.push_back(static_cast<uint32_t>(i));
  }
  int64_t misses = 0;
  if (!unknown.empty()) {
    for (int64_t i = 0; i < n; ++i) misses += rows[batch.inverse_data()[i]] == kNoRow;
    if (policy == nullptr) {
      RECIS_RETURN_IF_ERROR(AdmitLocked(batch, nullptr));
    } else {
      const std::vector<uint32_t> counts = batch.Counts();
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
  RECIS_RETURN_IF_ERROR(GatherLocked(batch, out, stream));
  CountLookups(n, n - misses);
  return found;
}

Result<std::shared_ptr<Batch>> Table::Find(const int64_t* ids, int64_t n,
                                           const uint32_t* times) const {
  ReadLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Usable());
  Result<std::shared_ptr<Batch>> found = FindLocked(ids, n);
  if (!found.ok()) return found;
  SetTimes(times, *found.value());
  CountBatch(*found.value());
  return found;
}

Status Table::AdmitFound(Batch& batch, const bool* admit) {
  WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(records_->Changeable());
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
  RECIS_RETURN_IF_ERROR(records_->Usable());
  Refresh(batch);
  return GatherLocked(batch, out, stream);
}

void Table::Contains(const int64_t* ids, int64_t n, bool* out) const {
  ReadLock lock(mutex_);
  ParallelFor(n, kRowGrain, [&](int64_t begin, int64_t end) {
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

}  // namespace recis
