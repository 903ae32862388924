#include "table/cached_table.h"

#include <algorithm>
#include <shared_mutex>
#include <utility>

namespace recis {

Result<std::shared_ptr<CachedTable>> CachedTable::Make(TableOptions options,
                                                       const std::shared_ptr<Store>& store,
                                                       const std::shared_ptr<Device>& device,
                                                       int64_t bytes) {
  const std::string name = options.name;
  RECIS_RETURN_IF_ERROR(device->MakeOwnStreams());
  const OnOwnStream on_own(*device, OnOwnStream::For::kCaller);
  Result<std::shared_ptr<Table>> table = Table::Make(std::move(options), store, /*fronted=*/true);
  if (!table.ok()) return table.status();
  Result<std::shared_ptr<StoreFront>> front =
      store->Front(name, [&]() -> Result<std::shared_ptr<StoreFront>> {
        std::shared_ptr<CachedTable> made(new CachedTable(table.value(), store, device, bytes));
        Result<DeviceCache::Frames> frames = made->cache_.FramesFor(made->Slots());
        if (!frames.ok()) return frames.status();
        made->cache_.Use(std::move(frames.value()));
        return std::shared_ptr<StoreFront>(made);
      });
  if (!front.ok()) return front.status();
  auto found = std::static_pointer_cast<CachedTable>(front.value());
  if (found->device_->space->name() != device->space->name() || found->bytes_ != bytes) {
    return InvalidArgument("table '" + name + "' is in the open store '" +
                           store->options().log.path + "' on " + found->device_->space->name() +
                           " with " + std::to_string(found->bytes_) +
                           " bytes there: make it again as it was, or open the store anew");
  }
  return found;
}

Status CachedTable::Usable() const {
  const std::shared_lock<SharedMutex> lock(store_->mutex());
  return store_->Usable();
}

Status CachedTable::Changeable() const {
  const std::shared_lock<SharedMutex> lock(store_->mutex());
  return store_->Changeable();
}

Status CachedBatch::CopyToHost(Stream stream) {
  Result<std::shared_ptr<Batch>> host = on_device->OnHost(stream);
  if (host.ok()) batch = std::move(host.value());
  return host.status();
}

// ---- what is where --------------------------------------------------------------------------

Frame CachedTable::FrameOf(int64_t row) const {
  const bool a_row = row >= 0 && row < int64_t{kNoRow};
  return a_row ? cache_.rows().FrameOf(static_cast<Row>(row)) : CachedRows::kNoFrame;
}

std::vector<Frame> CachedTable::FramesOf(const std::vector<int64_t>& rows) const {
  std::vector<Frame> frames;
  for (const int64_t row : rows) {
    const Frame frame = FrameOf(row);
    if (frame != CachedRows::kNoFrame) frames.push_back(frame);
  }
  std::sort(frames.begin(), frames.end());
  frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
  return frames;
}

Status CachedTable::DropIds(const std::vector<int64_t>& ids) {
  std::vector<int64_t> rows(ids.size());
  table_->Rows(ids.data(), static_cast<int64_t>(ids.size()), rows.data());
  return DropRows(rows);
}

Result<std::unique_lock<std::mutex>> CachedTable::WriteBackAndHold() {
  Lock lock(*this);
  RECIS_RETURN_IF_ERROR(WriteBackAll());
  return lock.Release();
}

Status CachedTable::Track(bool on) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(WriteBackAll());
  return table_->Track(on);
}

Result<std::shared_ptr<Cut>> CachedTable::TakeCut(bool delta, int64_t pool_bytes,
                                                  int64_t listed_rows) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(WriteBackAll());
  return table_->TakeCut(delta, pool_bytes, listed_rows);
}

// ---- whole table ----------------------------------------------------------------------------

void CachedTable::UseFrames(DeviceCache::Frames frames) {
  Result<TableStats> until_now = cache_.table().Stats();
  if (until_now.ok()) {
    lookups_ += until_now.value().lookups;
    hits_ += until_now.value().hits;
  }
  cache_.Use(std::move(frames));
}

Status CachedTable::Clear() {
  const Lock lock(*this);
  // Made first, so that a failure changes nothing.
  Result<DeviceCache::Frames> frames = cache_.FramesFor(cache_.schema().slots());
  if (!frames.ok()) return frames.status();
  RECIS_RETURN_IF_ERROR(table_->Clear());
  UseFrames(std::move(frames.value()));
  ++evictions_;
  return cache_.ClearGradient();
}

Result<int64_t> CachedTable::IdsMap(int64_t capacity, int64_t* ids, int64_t* rows) const {
  const Lock lock(*this);
  std::vector<int64_t> host_ids(static_cast<size_t>(capacity)), host_rows(host_ids.size());
  const int64_t count = table_->IdsMap(capacity, host_ids.data(), host_rows.data());
  RECIS_RETURN_IF_ERROR(ToDevice(host_ids.data(), count, ids));
  RECIS_RETURN_IF_ERROR(ToDevice(host_rows.data(), count, rows));
  return count;
}

Result<TableStats> CachedTable::Stats() const {
  const Lock lock(*this);
  TableStats stats = table_->Stats();
  Result<TableStats> on_device = cache_.table().Stats();
  if (!on_device.ok()) return on_device.status();
  stats.gradient_rows += on_device.value().gradient_rows;
  stats.lookups = lookups_ + on_device.value().lookups;
  stats.hits = hits_ + on_device.value().hits;
  stats.misses = stats.lookups - stats.hits;
  return stats;
}

CacheStats CachedTable::OfCache() const {
  const Lock lock(*this);
  return cache_.Stats();
}

}  // namespace recis
