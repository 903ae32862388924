#include "table/device_batch.h"

#include <cstring>

namespace recis {

size_t DeviceNumbers::Bytes(int64_t n) {
  return ArrayBytes<int64_t>(n) + ArrayBytes<uint32_t>(n) + ArrayBytes<uint32_t>(n + 1);
}

DeviceNumbers DeviceNumbers::Take(int64_t n, DeviceArrays* arrays) {
  return {n, arrays->Take<int64_t>(n), arrays->Take<uint32_t>(n), arrays->Take<uint32_t>(n + 1)};
}

Result<std::shared_ptr<Batch>> DeviceBatch::OnHost(Stream stream) const {
  auto host = std::make_shared<Batch>();
  Result<int64_t> count = CountDistinct(stream);
  if (!count.ok()) return count.status();
  host->size = size;
  host->distinct = count.value();
  const auto copy = [&](const void* from, size_t bytes, Buffer* to) {
    *to = BufferCache::Get(bytes);
    return memory.device().space->Copy(to->data(), from, bytes, stream);
  };
  RECIS_RETURN_IF_ERROR(copy(distinct.ids, host->distinct * sizeof(int64_t), &host->ids));
  RECIS_RETURN_IF_ERROR(copy(rows, host->distinct * sizeof(Row), &host->rows));
  RECIS_RETURN_IF_ERROR(copy(distinct.inverse, size * sizeof(uint32_t), &host->inverse));
  if (!times.empty()) {
    host->times = BufferCache::Get(times.size() * sizeof(uint32_t));
    std::memcpy(host->times.data(), times.data(), times.size() * sizeof(uint32_t));
  }
  RECIS_RETURN_IF_ERROR(memory.device().space->Wait(stream));
  return host;
}

Result<int64_t> DeviceBatch::CountDistinct(Stream stream) const {
  uint32_t count = 0;
  RECIS_RETURN_IF_ERROR(memory.device().FetchOn(stream, distinct.count(), sizeof(count), &count));
  return int64_t{count};
}

}  // namespace recis
