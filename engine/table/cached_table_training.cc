// Gradients, optimizer steps and slots of CachedTable.

#include <algorithm>
#include <utility>

#include "table/cached_table.h"

namespace recis {

// ---- gradient -------------------------------------------------------------------------------

Batch CachedTable::PartInTable(const CachedBatch& batch, Indices* positions) {
  const Batch& whole = *batch.batch;
  constexpr uint32_t kNone = ~uint32_t{0};
  std::vector<uint32_t> number(batch.places.size(), kNone);
  Indices which;
  for (size_t i = 0; i < batch.places.size(); ++i) {
    const CachedBatch::Place& place = batch.places[i];
    if (place.row == kNoRow || place.frame != CachedRows::kNoFrame) continue;
    number[i] = static_cast<uint32_t>(which.size());
    which.push_back(static_cast<uint32_t>(i));
  }
  std::vector<uint32_t> inverse;
  for (int64_t i = 0; !which.empty() && i < whole.size; ++i) {
    const uint32_t each = number[whole.inverse_data()[i]];
    if (each == kNone) continue;
    positions->push_back(static_cast<uint32_t>(i));
    inverse.push_back(each);
  }
  Batch part;
  part.size = static_cast<int64_t>(inverse.size());
  part.distinct = static_cast<int64_t>(which.size());
  part.ids = BufferCache::Get(which.size() * sizeof(int64_t));
  part.rows = BufferCache::Get(which.size() * sizeof(Row));
  part.inverse = BufferCache::Get(inverse.size() * sizeof(uint32_t));
  for (size_t k = 0; k < which.size(); ++k) {
    part.ids.as<int64_t>()[k] = whole.id_data()[which[k]];
    part.row_data()[k] = batch.places[which[k]].row;
  }
  std::copy(inverse.begin(), inverse.end(), part.inverse.as<uint32_t>());
  return part;
}

Status CachedTable::Accumulate(const CachedBatch& batch, const void* values, DType dtype, bool mean,
                               double divisor) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Place(batch));
  Indices positions;
  const Batch part = PartInTable(batch, &positions);
  const size_t bytes = SizeOf(dtype) * static_cast<size_t>(cache_.schema().slots()[0].count);
  const Buffer collected = BufferCache::Get(positions.size() * bytes);
  RECIS_RETURN_IF_ERROR(cache_.staging().Collect(positions, static_cast<const std::byte*>(values),
                                                 bytes, batch.batch->size, collected.data()));
  RECIS_RETURN_IF_ERROR(cache_.table().Accumulate(*batch.on_device, values, dtype, mean, divisor));
  for (const CachedBatch::Place& place : batch.places) {
    if (place.frame != CachedRows::kNoFrame) cache_.MarkPending(place.frame);
  }
  RECIS_RETURN_IF_ERROR(table_->Accumulate(part, collected.data(), dtype, mean, divisor));
  for (int64_t k = 0; k < part.distinct; ++k) cache_.MarkPendingInTable(part.row_data()[k]);
  return {};
}

Status CachedTable::AccumulateRows(const int64_t* rows, int64_t n, const void* values,
                                   DType dtype) {
  const Lock lock(*this);
  Result<std::vector<int64_t>> host_rows = OnHost(rows, n);
  if (!host_rows.ok()) return host_rows.status();
  const auto bytes = static_cast<int64_t>(SizeOf(dtype)) * cache_.schema().slots()[0].count;
  Result<std::vector<std::byte>> host_values =
      OnHost(static_cast<const std::byte*>(values), n * bytes);
  if (!host_values.ok()) return host_values.status();
  RECIS_RETURN_IF_ERROR(DropRows(host_rows.value()));
  RECIS_RETURN_IF_ERROR(
      table_->AccumulateRows(host_rows.value().data(), n, host_values.value().data(), dtype));
  for (const int64_t row : host_rows.value()) cache_.MarkPendingInTable(static_cast<Row>(row));
  return {};
}

Result<int64_t> CachedTable::GradientRows() const {
  const Lock lock(*this);
  Result<int64_t> cached = cache_.table().GradientRows();
  if (!cached.ok()) return cached;
  return cached.value() + table_->GradientRows();
}

Result<bool> CachedTable::HasGradient() const {
  const Lock lock(*this);
  if (table_->HasGradient()) return true;
  return cache_.table().HasGradient();
}

Result<int64_t> CachedTable::ReadGradient(int64_t capacity, double divisor, int64_t* rows,
                                          std::byte* values) const {
  const Lock lock(*this);
  Result<DeviceCache::Gradient> cached = cache_.ReadGradient(divisor);
  if (!cached.ok()) return cached.status();
  const size_t bytes = SizeOf(AccumulatorOf(options().dtype)) *
                       static_cast<size_t>(cache_.schema().slots()[0].count);
  const int64_t in_table = table_->GradientRows();
  std::vector<int64_t> table_rows(static_cast<size_t>(in_table));
  std::vector<std::byte> table_sums(table_rows.size() * bytes);
  table_->ReadGradient(in_table, divisor, table_rows.data(), table_sums.data());
  std::vector<std::pair<int64_t, const std::byte*>> entries;
  for (size_t i = 0; i < table_rows.size(); ++i) {
    entries.emplace_back(table_rows[i], table_sums.data() + i * bytes);
  }
  for (size_t i = 0; i < cached.value().frames.size(); ++i) {
    const auto frame = static_cast<Frame>(cached.value().frames[i]);
    entries.emplace_back(cache_.rows().At(frame).row, cached.value().sums.data() + i * bytes);
  }
  std::sort(entries.begin(), entries.end());
  if (static_cast<int64_t>(entries.size()) > capacity) entries.resize(capacity);
  std::vector<int64_t> all_rows;
  std::vector<std::byte> all_sums;
  for (const auto& [row, sum] : entries) {
    all_rows.push_back(row);
    all_sums.insert(all_sums.end(), sum, sum + bytes);
  }
  const auto n = static_cast<int64_t>(all_rows.size());
  RECIS_RETURN_IF_ERROR(ToDevice(all_rows.data(), n, rows));
  RECIS_RETURN_IF_ERROR(ToDevice(all_sums.data(), n * static_cast<int64_t>(bytes), values));
  return n;
}

Status CachedTable::ClearGradient() {
  const Lock lock(*this);
  table_->ClearGradient();
  return cache_.ClearGradient();
}

Status CachedTable::Step(const RuleParams& params, const std::vector<int>& states) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(table_->Step(params, states));
  return cache_.Step(params, states);
}

// ---- slots ----------------------------------------------------------------------------------

Result<int> CachedTable::AddSlot(Slot slot) {
  const Lock lock(*this);
  Schema schema = cache_.schema();
  Result<int> added = AddSlotTo(options(), slot, &schema);
  if (!added.ok()) return added;
  if (schema.slots().size() == cache_.schema().slots().size()) return added;
  // Made first, so that a failure changes nothing.
  Result<DeviceCache::Frames> frames = cache_.FramesFor(schema.slots());
  if (!frames.ok()) return frames.status();
  RECIS_RETURN_IF_ERROR(cache_.Drop(cache_.rows().All()));
  added = table_->AddSlot(std::move(slot));
  if (added.ok()) UseFrames(std::move(frames.value()));
  return added;
}

Status CachedTable::ReadSlot(int slot, const int64_t* rows, int64_t n, std::byte* values) const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(CheckSlot(options(), cache_.schema(), slot));
  Result<std::vector<int64_t>> host = OnHost(rows, n);
  if (!host.ok()) return host.status();
  RECIS_RETURN_IF_ERROR(WriteBack(host.value()));
  std::vector<std::byte> read(static_cast<size_t>(n) * cache_.schema().slots()[slot].bytes());
  RECIS_RETURN_IF_ERROR(table_->ReadSlot(slot, host.value().data(), n, read.data()));
  return ToDevice(read.data(), static_cast<int64_t>(read.size()), values);
}

Result<CachedTable::RowValues> CachedTable::ByPlace(const int64_t* rows, int64_t n,
                                                    const std::byte* values, size_t bytes) const {
  Result<std::vector<int64_t>> host_rows = OnHost(rows, n);
  if (!host_rows.ok()) return host_rows.status();
  Result<std::vector<std::byte>> host_values = OnHost(values, n * static_cast<int64_t>(bytes));
  if (!host_values.ok()) return host_values.status();
  RECIS_RETURN_IF_ERROR(table_->CheckLive(host_rows.value().data(), n));
  RowValues found;
  for (int64_t i = 0; i < n; ++i) {
    const Frame frame = FrameOf(host_rows.value()[i]);
    const bool cached = frame != CachedRows::kNoFrame;
    RowValues::Part& part = cached ? found.on_device : found.in_table;
    part.rows.push_back(cached ? int64_t{frame} : host_rows.value()[i]);
    const std::byte* value = host_values.value().data() + static_cast<size_t>(i) * bytes;
    part.values.insert(part.values.end(), value, value + bytes);
  }
  return found;
}

template <class Change>
Status CachedTable::ChangeRows(const RowValues& found, Change&& change) {
  const RowValues::Part &rest = found.in_table, &part = found.on_device;
  const auto n = static_cast<int64_t>(part.rows.size());
  const auto bytes = static_cast<int64_t>(part.values.size());
  // All memory first, then what may fail in the table. After that nothing does.
  Result<DeviceMemory> memory =
      DeviceMemory::Get(device_, ArrayBytes<int64_t>(n) + ArrayBytes<std::byte>(bytes));
  if (!memory.ok()) return memory.status();
  RECIS_RETURN_IF_ERROR(cache_.table().ReserveChange(n));
  DeviceArrays arrays(memory.value());
  auto* frames = arrays.Take<int64_t>(n);
  auto* values = arrays.Take<std::byte>(bytes);
  RECIS_RETURN_IF_ERROR(ToDevice(part.rows.data(), n, frames));
  RECIS_RETURN_IF_ERROR(ToDevice(part.values.data(), bytes, values));
  RECIS_RETURN_IF_ERROR(change(*table_, rest.rows.data(), static_cast<int64_t>(rest.rows.size()),
                               rest.values.data()));
  RECIS_RETURN_IF_ERROR(change(cache_.table(), frames, n, values));
  for (const int64_t frame : part.rows) cache_.MarkDirty(static_cast<Frame>(frame));
  return {};
}

Status CachedTable::WriteSlot(int slot, const int64_t* rows, int64_t n, const std::byte* values) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  RECIS_RETURN_IF_ERROR(CheckSlot(options(), cache_.schema(), slot));
  Result<RowValues> found = ByPlace(rows, n, values, cache_.schema().slots()[slot].bytes());
  if (!found.ok()) return found.status();
  return ChangeRows(found.value(), [slot](auto& table, const int64_t* changed, int64_t count,
                                          const std::byte* written) {
    return table.WriteSlot(slot, changed, count, written);
  });
}

Status CachedTable::AddToSlot(int slot, const int64_t* rows, int64_t n, const int64_t* values) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  RECIS_RETURN_IF_ERROR(CheckCounter(options(), cache_.schema(), slot));
  Result<RowValues> found = ByPlace(rows, n, reinterpret_cast<const std::byte*>(values),
                                    cache_.schema().slots()[slot].bytes());
  if (!found.ok()) return found.status();
  return ChangeRows(found.value(), [slot](auto& table, const int64_t* changed, int64_t count,
                                          const std::byte* added) {
    return table.AddToSlot(slot, changed, count, reinterpret_cast<const int64_t*>(added));
  });
}

Status CachedTable::ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(CheckSlot(options(), cache_.schema(), slot));
  RECIS_RETURN_IF_ERROR(WriteBackAll());
  std::vector<std::byte> read(static_cast<size_t>(capacity) *
                              cache_.schema().slots()[slot].bytes());
  RECIS_RETURN_IF_ERROR(table_->ReadWholeSlot(slot, capacity, read.data()));
  return ToDevice(read.data(), static_cast<int64_t>(read.size()), values);
}

}  // namespace recis
