// Finding, admitting, evicting and copying out: what a lookup of CachedTable does.

#include <algorithm>
#include <utility>

#include "table/cached_table.h"

namespace recis {

// ---- finding --------------------------------------------------------------------------------

Result<std::shared_ptr<CachedBatch>> CachedTable::StartFinding(const int64_t* ids, int64_t n,
                                                               const uint32_t* times) const {
  Result<std::shared_ptr<DeviceBatch>> found = cache_.table().FindUncounted(ids, n, times);
  if (!found.ok()) return found.status();
  auto batch = std::make_shared<CachedBatch>();
  batch->size = n;
  batch->on_device = std::move(found.value());
  batch->moves = Moves();
  batch->evictions = evictions_;
  return batch;
}

void CachedTable::TellPlaces(CachedBatch& batch) const {
  const int64_t distinct = batch.batch->distinct;
  const int64_t* ids = batch.batch->id_data();
  Row* rows = batch.batch->row_data();  // frames, as yet
  batch.places.reserve(static_cast<size_t>(distinct));
  for (int64_t i = 0; i < distinct; ++i) {
    const Frame frame = rows[i];
    rows[i] = cache_.rows().RowOf(frame, ids[i]);
    batch.places.push_back({rows[i], frame});
  }
}

Result<std::shared_ptr<CachedBatch>> CachedTable::FindOnDevice(const int64_t* ids, int64_t n,
                                                               const uint32_t* times) const {
  Result<std::shared_ptr<CachedBatch>> found = StartFinding(ids, n, times);
  if (!found.ok()) return found;
  RECIS_RETURN_IF_ERROR(found.value()->CopyToHost(device_->stream));
  TellPlaces(*found.value());
  return found;
}

CachedTable::Indices CachedTable::NotCached(const CachedBatch& batch) {
  Indices indices;
  for (size_t i = 0; i < batch.places.size(); ++i) {
    if (batch.places[i].frame == CachedRows::kNoFrame) indices.push_back(static_cast<uint32_t>(i));
  }
  return indices;
}

std::vector<int64_t> CachedTable::IdsOf(const CachedBatch& batch, const Indices& which) {
  std::vector<int64_t> ids;
  for (const uint32_t i : which) ids.push_back(batch.batch->id_data()[i]);
  return ids;
}

std::vector<RowOfId> CachedTable::RowsOf(const CachedBatch& batch, const Indices& which) {
  std::vector<RowOfId> rows;
  for (const uint32_t i : which) {
    const Row row = batch.places[i].row;
    if (row != kNoRow) rows.push_back({batch.batch->id_data()[i], row});
  }
  return rows;
}

void CachedTable::SetRow(CachedBatch& batch, uint32_t i, Row row) {
  batch.batch->row_data()[i] = row;
  batch.places[i].row = row;
}

void CachedTable::FindInTable(CachedBatch& batch, const Indices& which) const {
  const std::vector<int64_t> ids = IdsOf(batch, which);
  std::vector<int64_t> rows(ids.size());
  table_->Rows(ids.data(), static_cast<int64_t>(ids.size()), rows.data());
  for (size_t k = 0; k < which.size(); ++k) SetRow(batch, which[k], static_cast<Row>(rows[k]));
}

void CachedTable::Count(const CachedBatch& batch) const {
  const Batch& found = *batch.batch;
  const Row* rows = found.row_data();
  lookups_ += found.size;
  hits_ += found.size;
  if (std::find(rows, rows + found.distinct, kNoRow) == rows + found.distinct) return;
  for (int64_t i = 0; i < found.size; ++i) hits_ -= rows[found.inverse_data()[i]] == kNoRow;
}

Status CachedTable::Place(const CachedBatch& batch) const {
  if (batch.moves == Moves()) return {};
  const Batch& found = *batch.batch;
  const auto distinct = static_cast<size_t>(found.distinct);
  std::vector<int64_t> now(distinct);
  if (batch.evictions != evictions_) {
    table_->Rows(found.id_data(), found.distinct, now.data());
  } else {
    std::copy_n(found.row_data(), distinct, now.begin());
  }
  bool moved = false;
  for (size_t i = 0; i < distinct; ++i) {
    // Who had no row then takes part no more.
    const Row row = found.row_data()[i] == kNoRow ? kNoRow : static_cast<Row>(now[i]);
    const Frame frame = cache_.rows().FrameOf(row);
    moved |= frame != batch.places[i].frame;
    batch.places[i] = {row, frame};
  }
  if (moved) RECIS_RETURN_IF_ERROR(PlaceOnDevice(batch));
  batch.moves = Moves();
  return {};
}

Status CachedTable::Refresh(CachedBatch& batch) const {
  if (batch.moves == Moves()) return {};
  const bool freed = batch.evictions != evictions_;  // then other ids may have these rows
  Indices open;
  for (uint32_t i = 0; i < batch.places.size(); ++i) {
    if (freed || batch.places[i].row == kNoRow) open.push_back(i);
  }
  FindInTable(batch, open);
  RowsAreTrue(batch);
  return Place(batch);
}

Status CachedTable::PlaceOnDevice(const CachedBatch& batch) const {
  std::vector<Row> frames;
  for (const CachedBatch::Place& place : batch.places) frames.push_back(place.frame);
  return ToDevice(frames.data(), static_cast<int64_t>(frames.size()), batch.on_device->rows);
}

// ---- copying --------------------------------------------------------------------------------

Status CachedTable::GatherFrom(const CachedBatch& batch, const Indices& others,
                               const std::byte* values, std::byte* out) const {
  RECIS_RETURN_IF_ERROR(cache_.table().Gather(*batch.on_device, out));
  if (others.empty()) return {};
  const Batch& found = *batch.batch;
  constexpr uint32_t kNone = ~uint32_t{0};
  std::vector<uint32_t> values_of(static_cast<size_t>(found.distinct), kNone);
  bool any = false;
  for (size_t k = 0; k < others.size(); ++k) {
    const CachedBatch::Place& place = batch.places[others[k]];
    if (place.row == kNoRow || place.frame != CachedRows::kNoFrame) continue;
    values_of[others[k]] = static_cast<uint32_t>(k);
    any = true;
  }
  if (!any) return {};
  Indices positions, from;
  for (int64_t i = 0; i < found.size; ++i) {
    const uint32_t value = values_of[found.inverse_data()[i]];
    if (value == kNone) continue;
    positions.push_back(static_cast<uint32_t>(i));
    from.push_back(value);
  }
  return cache_.staging().Scatter(positions, from, values, embedding_bytes(), found.size, out);
}

// ---- lookups --------------------------------------------------------------------------------

Status CachedTable::Read(const int64_t* ids, int64_t n, std::byte* out) const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Usable());
  // What is not there is nowhere.
  if (cache_.rows().size() == table_->size()) return cache_.table().Read(ids, n, out);
  Result<std::shared_ptr<CachedBatch>> found = FindOnDevice(ids, n, nullptr);
  if (!found.ok()) return found.status();
  CachedBatch& batch = *found.value();
  const Indices missing = NotCached(batch);
  const Buffer values = BufferCache::Get(missing.size() * embedding_bytes());
  if (!missing.empty()) {
    FindInTable(batch, missing);
    const std::vector<int64_t> missed = IdsOf(batch, missing);
    RECIS_RETURN_IF_ERROR(table_->Read(missed.data(), static_cast<int64_t>(missed.size()),
                                       values.data(), /*stream=*/false));
  }
  RECIS_RETURN_IF_ERROR(GatherFrom(batch, missing, values.data(), out));
  Count(batch);
  return {};
}

// Answers what is not cached. Counts the batch once that has not failed.
Status CachedTable::AskTable(CachedBatch& batch, const Indices& missing, AdmissionPolicy* policy,
                             std::byte* values) {
  if (missing.empty()) {
    Count(batch);
    return {};
  }
  FindInTable(batch, missing);
  const std::vector<int64_t> ids = IdsOf(batch, missing);
  const std::vector<uint32_t> counts = batch.batch->Counts();
  std::vector<uint32_t> times;
  for (const uint32_t i : missing) times.push_back(counts[i]);
  Result<std::shared_ptr<Batch>> answered =
      table_->Lookup(ids.data(), static_cast<int64_t>(ids.size()), policy, values,
                     /*stream=*/false, times.data());
  if (!answered.ok()) return answered.status();
  Count(batch);
  for (size_t k = 0; k < missing.size(); ++k) {
    SetRow(batch, missing[k], answered.value()->row_data()[k]);
  }
  return {};
}

void CachedTable::AddFrames(const CachedBatch& batch, std::vector<Frame>* frames) {
  for (const CachedBatch::Place& place : batch.places) {
    if (place.frame != CachedRows::kNoFrame) frames->push_back(place.frame);
  }
}

Status CachedTable::Promote(CachedBatch& batch, const Indices& missing) {
  used_.clear();
  for (const CachedBatch::Place& place : batch.places) {
    if (place.row != kNoRow) used_.push_back(place.row);
    if (place.frame != CachedRows::kNoFrame) cache_.Touch(place.frame);
  }
  if (missing.empty()) return {};
  std::vector<Frame> kept;
  AddFrames(batch, &kept);
  // What the device has no memory for stays where it is.
  (void)cache_.Promote(RowsOf(batch, missing), kept);
  if (batch.moves == Moves()) return {};
  for (const uint32_t i : missing) {
    batch.places[i].frame = cache_.rows().FrameOf(batch.places[i].row);
  }
  batch.moves = Moves();
  return PlaceOnDevice(batch);
}

Result<std::shared_ptr<CachedBatch>> CachedTable::Lookup(const int64_t* ids, int64_t n,
                                                         AdmissionPolicy* policy, std::byte* out,
                                                         const uint32_t* times) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  Result<std::shared_ptr<CachedBatch>> found = FindOnDevice(ids, n, times);
  if (!found.ok()) return found;
  RECIS_RETURN_IF_ERROR(Answer(*found.value(), policy, out));
  return found;
}

Status CachedTable::Answer(CachedBatch& batch, AdmissionPolicy* policy, std::byte* out) {
  const Indices missing = NotCached(batch);
  const Buffer values = BufferCache::Get(missing.size() * embedding_bytes());
  RECIS_RETURN_IF_ERROR(AskTable(batch, missing, policy, values.data()));
  RECIS_RETURN_IF_ERROR(Promote(batch, missing));
  return GatherFrom(batch, missing, values.data(), out);
}

Result<std::shared_ptr<CachedBatch>> CachedTable::Find(const int64_t* ids, int64_t n,
                                                       const uint32_t* times) const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Usable());
  Result<std::shared_ptr<CachedBatch>> found = FindOnDevice(ids, n, times);
  if (!found.ok()) return found;
  FindInTable(*found.value(), NotCached(*found.value()));
  Count(*found.value());
  return found;
}

Status CachedTable::AdmitFound(CachedBatch& batch, const bool* admit) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  RECIS_RETURN_IF_ERROR(table_->AdmitFound(*batch.batch, admit));
  RowsAreTrue(batch);
  RECIS_RETURN_IF_ERROR(Place(batch));
  return Promote(batch, NotCached(batch));
}

Status CachedTable::Gather(CachedBatch& batch, std::byte* out) const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Usable());
  RECIS_RETURN_IF_ERROR(batch.evictions != evictions_ ? Refresh(batch) : Place(batch));
  Indices others = NotCached(batch);
  std::erase_if(others, [&](uint32_t i) { return batch.places[i].row == kNoRow; });
  std::vector<int64_t> rows;
  for (const uint32_t i : others) rows.push_back(batch.places[i].row);
  const Buffer values = BufferCache::Get(others.size() * embedding_bytes());
  RECIS_RETURN_IF_ERROR(
      table_->ReadSlot(0, rows.data(), static_cast<int64_t>(rows.size()), values.data()));
  return GatherFrom(batch, others, values.data(), out);
}

Status CachedTable::Contains(const int64_t* ids, int64_t n, bool* out) const {
  const Lock lock(*this);
  Result<std::vector<int64_t>> host = OnHost(ids, n);
  if (!host.ok()) return host.status();
  const Buffer there = BufferCache::Get(static_cast<size_t>(n));
  table_->Contains(host.value().data(), n, there.as<bool>());
  return ToDevice(there.as<bool>(), n, out);
}

Status CachedTable::Rows(const int64_t* ids, int64_t n, int64_t* rows) const {
  const Lock lock(*this);
  Result<std::vector<int64_t>> host = OnHost(ids, n);
  if (!host.ok()) return host.status();
  std::vector<int64_t> found(host.value().size());
  table_->Rows(host.value().data(), n, found.data());
  return ToDevice(found.data(), n, rows);
}

// ---- change ---------------------------------------------------------------------------------

Result<std::shared_ptr<CachedBatch>> CachedTable::Insert(const int64_t* ids, int64_t n,
                                                         const std::byte* values) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  Result<std::shared_ptr<CachedBatch>> found = FindOnDevice(ids, n, nullptr);
  if (!found.ok()) return found;
  CachedBatch& batch = *found.value();
  Result<std::vector<int64_t>> host_ids = OnHost(ids, n);
  if (!host_ids.ok()) return host_ids.status();
  Result<std::vector<std::byte>> host_values =
      OnHost(values, n * static_cast<int64_t>(embedding_bytes()));
  if (!host_values.ok()) return host_values.status();
  RECIS_RETURN_IF_ERROR(DropIds(host_ids.value()));
  Result<std::shared_ptr<Batch>> inserted =
      table_->Insert(host_ids.value().data(), n, host_values.value().data());
  if (!inserted.ok()) return inserted.status();
  batch.batch = std::move(inserted.value());
  RowsAreTrue(batch);
  return found;
}

Result<int64_t> CachedTable::Evict(const int64_t* ids, int64_t n) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  Result<std::vector<int64_t>> host = OnHost(ids, n);
  if (!host.ok()) return host.status();
  RECIS_RETURN_IF_ERROR(DropIds(host.value()));
  Result<int64_t> gone = table_->Evict(host.value().data(), n);
  evictions_ += gone.ok() && gone.value() > 0;
  return gone;
}

Status CachedTable::Restore(const int64_t* ids, int64_t n, const std::vector<int>& slots,
                            const std::vector<const std::byte*>& values) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  Result<std::vector<int64_t>> host_ids = OnHost(ids, n);
  if (!host_ids.ok()) return host_ids.status();
  std::vector<std::vector<std::byte>> host_values;
  std::vector<const std::byte*> addresses;
  for (size_t k = 0; k < std::min(slots.size(), values.size()); ++k) {
    RECIS_RETURN_IF_ERROR(CheckSlot(options(), cache_.schema(), slots[k]));
    Result<std::vector<std::byte>> copied =
        OnHost(values[k], n * static_cast<int64_t>(cache_.schema().slots()[slots[k]].bytes()));
    if (!copied.ok()) return copied.status();
    host_values.push_back(std::move(copied.value()));
    addresses.push_back(host_values.back().data());
  }
  addresses.resize(values.size());
  RECIS_RETURN_IF_ERROR(DropIds(host_ids.value()));
  return table_->Restore(host_ids.value().data(), n, slots, addresses);
}

}  // namespace recis
