// Finding, admitting, evicting and copying out: what a lookup of DeviceTable does.

#include <algorithm>
#include <memory>
#include <utility>

#include "table/device_table.h"

namespace recis {

size_t DeviceTable::NumberBytes(int64_t n) {
  return ArrayBytes<uint32_t>(NumberingArgs::PlacesFor(n));
}

Status DeviceTable::Number(const int64_t* ids, const DeviceNumbers& numbers,
                           DeviceArrays* arrays) const {
  const int64_t place_count = NumberingArgs::PlacesFor(numbers.n);
  auto* places = arrays->Take<uint32_t>(place_count);
  RECIS_RETURN_IF_ERROR(
      device_->space->Fill(places, 0xff, place_count * sizeof(uint32_t), stream()));
  return kernels().Number({ids, numbers.n, numbers.ids, numbers.inverse, numbers.numbers, places},
                          stream());
}

Status DeviceTable::Read(const int64_t* ids, int64_t n, std::byte* out) const {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_, n));
  const Lock lock(*this);
  lookups_ += n;
  return kernels().Read(view(), ids, n, embedding_bytes(), out, stream());
}

Status DeviceTable::FindRows(const DeviceBatch& batch, Row* rows) const {
  return kernels().Find(
      view(), {batch.distinct.ids, batch.distinct.count(), batch.size, rows, nullptr}, stream());
}

Status DeviceTable::FindBatchRows(DeviceBatch& batch) const {
  batch.evictions = eviction_count_;
  return FindRows(batch, batch.rows);
}

Result<std::shared_ptr<DeviceBatch>> DeviceTable::FindLocked(const int64_t* ids, int64_t n,
                                                             const uint32_t* times) const {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_, n));
  auto batch = std::make_shared<DeviceBatch>();
  Result<DeviceMemory> memory =
      DeviceMemory::Get(device_, DeviceNumbers::Bytes(n) + ArrayBytes<Row>(n));
  if (!memory.ok()) return memory.status();
  batch->memory = std::move(memory.value());
  DeviceArrays arrays(batch->memory);
  batch->size = n;
  batch->distinct = DeviceNumbers::Take(n, &arrays);
  batch->rows = arrays.Take<Row>(n);
  if (times != nullptr) batch->times.assign(times, times + n);
  Result<DeviceArrays> scratch = Scratch(NumberBytes(n));
  if (!scratch.ok()) return scratch.status();
  RECIS_RETURN_IF_ERROR(Number(ids, batch->distinct, &scratch.value()));
  RECIS_RETURN_IF_ERROR(FindBatchRows(*batch));
  return batch;
}

Status DeviceTable::CountBatch(const DeviceBatch& batch) const {
  lookups_ += batch.size;
  return kernels().CountHits(view(), batch.rows, batch.distinct.inverse, batch.size, stream());
}

Status DeviceTable::GatherLocked(const DeviceBatch& batch, std::byte* out) const {
  return kernels().Gather(
      view(), {batch.rows, batch.distinct.inverse, batch.size, 0, embedding_bytes(), out},
      stream());
}

Status DeviceTable::AdmitLocked(DeviceBatch& batch, const bool* admit, bool drawn) {
  RECIS_RETURN_IF_ERROR(ReserveRows(batch.size));
  Result<DeviceArrays> arrays = Scratch(ArrayBytes<uint32_t>(batch.size + 1));
  if (!arrays.ok()) return arrays.status();
  const Slot& embedding = schema_.slots()[0];
  drawn = drawn && options_.draw.distribution != Distribution::kConstant;
  AdmitArgs args{batch.distinct.ids,
                 admit,
                 batch.distinct.count(),
                 batch.size,
                 batch.rows,
                 arrays.value().Take<uint32_t>(batch.size + 1),
                 new_record_.data(),
                 schema_.record_bytes(),
                 drawn ? &options_.draw : nullptr,
                 embedding.dtype,
                 embedding.count};
  // Where freed rows are used again, there is room for fewer.
  most_rows_ = std::min(most_rows_ + batch.size, std::min(rows_.reserved(), records_.reserved()));
  most_places_ += batch.size;
  return kernels().Admit(view(), args, stream());
}

Result<std::shared_ptr<DeviceBatch>> DeviceTable::Lookup(const int64_t* ids, int64_t n,
                                                         AdmissionPolicy* policy, std::byte* out,
                                                         const uint32_t* times) {
  const Lock lock(*this);
  Result<std::shared_ptr<DeviceBatch>> found = FindLocked(ids, n, times);
  if (!found.ok()) return found;
  DeviceBatch& batch = *found.value();
  RECIS_RETURN_IF_ERROR(ReserveRows(n));  // so that nothing is counted when it fails
  RECIS_RETURN_IF_ERROR(CountBatch(batch));
  RECIS_RETURN_IF_ERROR(policy == nullptr ? AdmitLocked(batch, nullptr) : Ask(*policy, batch));
  batch.all_admitted = policy == nullptr;
  RECIS_RETURN_IF_ERROR(GatherLocked(batch, out));
  return found;
}

// Asks a policy of the host about the ids that have no row.
Status DeviceTable::Ask(AdmissionPolicy& policy, DeviceBatch& batch) {
  Result<std::shared_ptr<Batch>> copied = batch.OnHost();
  if (!copied.ok()) return copied.status();
  const Batch& host = *copied.value();
  const std::vector<uint32_t> all_counts = host.Counts();
  std::vector<int64_t> ids;
  std::vector<uint32_t> counts, unknown;
  for (int64_t i = 0; i < host.distinct; ++i) {
    if (host.row_data()[i] != kNoRow) continue;
    unknown.push_back(static_cast<uint32_t>(i));
    ids.push_back(host.id_data()[i]);
    counts.push_back(all_counts[i]);
  }
  if (unknown.empty()) return {};
  const auto answer = std::make_unique<bool[]>(unknown.size());
  policy.Admit(ids.data(), counts.data(), static_cast<int64_t>(ids.size()), answer.get());
  const auto admit = std::make_unique<bool[]>(static_cast<size_t>(host.distinct));
  for (size_t i = 0; i < unknown.size(); ++i) admit[unknown[i]] = answer[i];
  RECIS_RETURN_IF_ERROR(AdmitMasked(batch, admit.get(), host.distinct));
  refusals_ += std::count(answer.get(), answer.get() + unknown.size(), false);
  return {};
}

Status DeviceTable::AdmitMasked(DeviceBatch& batch, const bool* admit, int64_t distinct) {
  Result<DeviceMemory> mask = DeviceMemory::Get(device_, static_cast<size_t>(batch.size));
  if (!mask.ok()) return mask.status();
  RECIS_RETURN_IF_ERROR(
      device_->space->Copy(mask.value().data(), admit, static_cast<size_t>(distinct), stream()));
  RECIS_RETURN_IF_ERROR(device_->space->Wait(stream()));  // `admit` may go
  return AdmitLocked(batch, reinterpret_cast<const bool*>(mask.value().data()));
}

Result<std::shared_ptr<DeviceBatch>> DeviceTable::Find(const int64_t* ids, int64_t n,
                                                       const uint32_t* times) const {
  const Lock lock(*this);
  Result<std::shared_ptr<DeviceBatch>> found = FindLocked(ids, n, times);
  if (!found.ok()) return found;
  RECIS_RETURN_IF_ERROR(CountBatch(*found.value()));
  return found;
}

Result<std::shared_ptr<DeviceBatch>> DeviceTable::FindUncounted(const int64_t* ids, int64_t n,
                                                                const uint32_t* times) const {
  const Lock lock(*this);
  return FindLocked(ids, n, times);
}

Status DeviceTable::AdmitFound(DeviceBatch& batch, const bool* admit) {
  const Lock lock(*this);
  Result<std::shared_ptr<Batch>> before = batch.OnHost();
  if (!before.ok()) return before.status();
  const Batch& host = *before.value();
  const auto unknown = std::count(host.row_data(), host.row_data() + host.distinct, kNoRow);
  Result<Counts> counts = Count();
  if (!counts.ok()) return counts.status();
  // Find again: another thread may have admitted or evicted in between.
  RECIS_RETURN_IF_ERROR(FindBatchRows(batch));
  RECIS_RETURN_IF_ERROR(AdmitMasked(batch, admit, host.distinct));
  Result<Counts> after = Count();
  if (!after.ok()) return after.status();
  const auto admitted = static_cast<int64_t>(after.value().admits - counts.value().admits);
  refusals_ += std::max<int64_t>(unknown - admitted, 0);
  return {};
}

Status DeviceTable::Gather(DeviceBatch& batch, std::byte* out) const {
  const Lock lock(*this);
  // Another thread may have freed or made rows since they were found.
  if (batch.evictions != eviction_count_) RECIS_RETURN_IF_ERROR(FindBatchRows(batch));
  return GatherLocked(batch, out);
}

Status DeviceTable::Contains(const int64_t* ids, int64_t n, bool* out) const {
  const Lock lock(*this);
  Result<DeviceArrays> arrays = Scratch(ArrayBytes<Row>(n));
  if (!arrays.ok()) return arrays.status();
  Row* rows = arrays.value().Take<Row>(n);
  RECIS_RETURN_IF_ERROR(kernels().Find(view(), {ids, nullptr, n, rows, nullptr}, stream()));
  return kernels().TellRows(rows, n, nullptr, out, stream());
}

Status DeviceTable::Rows(const int64_t* ids, int64_t n, int64_t* rows) const {
  const Lock lock(*this);
  Result<DeviceArrays> arrays = Scratch(ArrayBytes<Row>(n));
  if (!arrays.ok()) return arrays.status();
  Row* found = arrays.value().Take<Row>(n);
  RECIS_RETURN_IF_ERROR(kernels().Find(view(), {ids, nullptr, n, found, nullptr}, stream()));
  return kernels().TellRows(found, n, rows, nullptr, stream());
}

Status DeviceTable::ScatterLast(const Row* rows, const DeviceNumbers& numbers, const Slot& slot,
                                const std::byte* values, DeviceArrays* arrays) {
  const int64_t n = numbers.n;
  auto* last = arrays->Take<uint32_t>(n);
  RECIS_RETURN_IF_ERROR(device_->space->Fill(last, 0, n * sizeof(uint32_t), stream()));
  RECIS_RETURN_IF_ERROR(kernels().Last(numbers.inverse, n, last, stream()));
  return kernels().Scatter(
      view(), {rows, numbers.count(), last, n, slot.offset, slot.bytes(), values}, stream());
}

Result<std::shared_ptr<DeviceBatch>> DeviceTable::Insert(const int64_t* ids, int64_t n,
                                                         const std::byte* values) {
  const Lock lock(*this, LockToChange());
  Result<std::shared_ptr<DeviceBatch>> found = FindLocked(ids, n, nullptr);
  if (!found.ok()) return found;
  const DeviceBatch& batch = *found.value();
  RECIS_RETURN_IF_ERROR(Scratch(ArrayBytes<uint32_t>(n + 1)).status());  // before anything changes
  RECIS_RETURN_IF_ERROR(BeforeChangeOf(batch.rows, batch.distinct.count(), n));
  RECIS_RETURN_IF_ERROR(AdmitLocked(*found.value(), nullptr, /*drawn=*/false));
  Result<DeviceArrays> arrays = Scratch(ArrayBytes<uint32_t>(n));
  RECIS_RETURN_IF_ERROR(
      ScatterLast(batch.rows, batch.distinct, schema_.slots()[0], values, &arrays.value()));
  return found;
}

Status DeviceTable::Restore(const int64_t* ids, int64_t n, const std::vector<int>& slots,
                            const std::vector<const std::byte*>& values) {
  const Lock lock(*this, LockToChange());
  if (slots.size() != values.size()) {
    return InvalidArgument("table '" + options_.name + "': " + std::to_string(slots.size()) +
                           " slots to restore and values for " + std::to_string(values.size()));
  }
  for (const int slot : slots) RECIS_RETURN_IF_ERROR(CheckSlot(options_, schema_, slot));
  Result<std::shared_ptr<DeviceBatch>> found = FindLocked(ids, n, nullptr);
  if (!found.ok()) return found.status();
  DeviceBatch& batch = *found.value();
  uint32_t distinct = 0;
  RECIS_RETURN_IF_ERROR(device_->Fetch(batch.distinct.count(), sizeof(distinct), &distinct));
  if (distinct != n) {
    return InvalidArgument("table '" + options_.name + "': of " + std::to_string(n) +
                           " ids to restore only " + std::to_string(distinct) + " are distinct");
  }
  RECIS_RETURN_IF_ERROR(BeforeChangeOf(batch.rows, nullptr, n));
  const bool drawn = std::find(slots.begin(), slots.end(), 0) == slots.end();
  RECIS_RETURN_IF_ERROR(AdmitLocked(batch, nullptr, drawn));
  for (size_t k = 0; k < slots.size(); ++k) {
    const Slot& slot = schema_.slots()[slots[k]];
    RECIS_RETURN_IF_ERROR(kernels().Scatter(
        view(), {batch.rows, nullptr, nullptr, n, slot.offset, slot.bytes(), values[k]}, stream()));
  }
  return {};
}

Result<std::shared_ptr<DeviceBatch>> DeviceTable::RestoreRecords(const int64_t* ids, int64_t n,
                                                                 const std::byte* records) {
  const Lock lock(*this, LockToChange());
  Result<std::shared_ptr<DeviceBatch>> found = FindLocked(ids, n, nullptr);
  if (!found.ok()) return found;
  DeviceBatch& batch = *found.value();
  RECIS_RETURN_IF_ERROR(BeforeChangeOf(batch.rows, batch.distinct.count(), n));
  RECIS_RETURN_IF_ERROR(AdmitLocked(batch, nullptr, /*drawn=*/false));
  RECIS_RETURN_IF_ERROR(kernels().Scatter(
      view(), {batch.rows, batch.distinct.count(), nullptr, n, 0, schema_.record_bytes(), records},
      stream()));
  return found;
}

Result<int64_t> DeviceTable::Evict(const int64_t* ids, int64_t n) {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_, n));
  const Lock lock(*this, LockToChange());
  Result<DeviceArrays> scratch =
      Scratch(NumberBytes(n) + DeviceNumbers::Bytes(n) + ArrayBytes<Row>(n) +
              ArrayBytes<uint64_t>(n) + ArrayBytes<uint32_t>(n + 1));
  if (!scratch.ok()) return scratch.status();
  DeviceArrays& arrays = scratch.value();
  const DeviceNumbers numbers = DeviceNumbers::Take(n, &arrays);
  auto* rows = arrays.Take<Row>(n);
  auto* places = arrays.Take<uint64_t>(n);
  auto* ranks = arrays.Take<uint32_t>(n + 1);
  RECIS_RETURN_IF_ERROR(Number(ids, numbers, &arrays));
  RECIS_RETURN_IF_ERROR(
      kernels().Find(view(), {numbers.ids, numbers.count(), n, rows, places}, stream()));
  RECIS_RETURN_IF_ERROR(BeforeChangeOf(rows, numbers.count(), n));
  if (changes_) RECIS_RETURN_IF_ERROR(NoteFreed(numbers.ids, rows, numbers.count()));
  RECIS_RETURN_IF_ERROR(kernels().Evict(
      view(), {rows, places, numbers.count(), n, ranks, schema_.record_bytes()}, stream()));
  uint32_t gone = 0;
  RECIS_RETURN_IF_ERROR(device_->Fetch(ranks + n, sizeof(gone), &gone));
  eviction_count_ += gone > 0;
  if (gone > 0) surely_has_gradient_ = false;
  evictions_ += gone;
  return int64_t{gone};
}

}  // namespace recis
