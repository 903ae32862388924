#include "device/staging.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace recis {
namespace {

// Of an array (n, bytes) on the device, as the records of a table. `address`: where the array's
// address lies there.
DeviceTableView AsRecords(std::byte* const* address, int64_t n, size_t bytes) {
  DeviceTableView view;
  const auto elements = static_cast<uint32_t>(n + 1);
  view.records = {address, ~uint64_t{0} / elements + 1, elements, bytes};
  return view;
}

}  // namespace

Result<std::unique_ptr<Staging>> Staging::Make(std::shared_ptr<Device> device, size_t bytes) {
  Result<DeviceMemory> memory = DeviceMemory::Get(device, bytes);
  if (!memory.ok()) return memory.status();
  Result<std::byte*> host = device->space->AllocateHost(bytes);
  if (!host.ok()) return host.status();
  return std::unique_ptr<Staging>(
      new Staging(std::move(device), std::move(memory.value()), host.value()));
}

Status Staging::ToDevice() {
  return device_->space->Copy(memory_.data(), host_, used_, device_->stream);
}

Status Staging::Scatter(const std::vector<uint32_t>& positions, const std::vector<uint32_t>& from,
                        const std::byte* values, size_t bytes, int64_t n, std::byte* array) {
  const auto count = static_cast<int64_t>(positions.size());
  const int64_t most = Items(bytes + sizeof(Row));
  for (int64_t first = 0; first < count; first += most) {
    const int64_t some = std::min(most, count - first);
    Clear();
    const auto address = Take<std::byte*>(1);
    const auto rows = Take<Row>(some);
    const auto copies = Take<std::byte>(some * static_cast<int64_t>(bytes));
    *address.host = array;
    for (int64_t i = 0; i < some; ++i) {
      rows.host[i] = positions[first + i];
      std::memcpy(copies.host + i * bytes, values + from[first + i] * bytes, bytes);
    }
    RECIS_RETURN_IF_ERROR(ToDevice());
    RECIS_RETURN_IF_ERROR(device_->kernels->Scatter(
        AsRecords(address.device, n, bytes),
        {rows.device, nullptr, nullptr, some, 0, bytes, copies.device}, device_->stream));
    RECIS_RETURN_IF_ERROR(device_->space->Wait(device_->stream));
  }
  return {};
}

Status Staging::Collect(const std::vector<uint32_t>& positions, const std::byte* array,
                        size_t bytes, int64_t n, std::byte* values) {
  const auto count = static_cast<int64_t>(positions.size());
  const int64_t most = Items(bytes + sizeof(Row));
  for (int64_t first = 0; first < count; first += most) {
    const int64_t some = std::min(most, count - first);
    Clear();
    const auto address = Take<std::byte*>(1);
    const auto rows = Take<Row>(some);
    *address.host = const_cast<std::byte*>(array);
    std::copy_n(positions.data() + first, some, rows.host);
    RECIS_RETURN_IF_ERROR(ToDevice());
    const int64_t size = some * static_cast<int64_t>(bytes);
    const auto copies = Take<std::byte>(size);
    RECIS_RETURN_IF_ERROR(device_->kernels->Gather(
        AsRecords(address.device, n, bytes), {rows.device, nullptr, some, 0, bytes, copies.device},
        device_->stream));
    RECIS_RETURN_IF_ERROR(ToHost(copies, size));
    std::memcpy(values + first * bytes, copies.host, static_cast<size_t>(size));
  }
  return {};
}

}  // namespace recis
