#include "device/device_reader.h"

#include <algorithm>
#include <utility>

namespace recis {
namespace {
constexpr size_t kLeastRecordBytes = 16;  // records are padded to it

size_t RowBytes(size_t bytes) { return bytes / kLeastRecordBytes * sizeof(Row); }
}  // namespace

Result<std::unique_ptr<DeviceReader>> DeviceReader::Make(std::shared_ptr<Device> device,
                                                         size_t bytes) {
  bytes = (bytes + kLeastRecordBytes - 1) / kLeastRecordBytes * kLeastRecordBytes;
  std::unique_ptr<DeviceReader> reader(new DeviceReader(device, bytes));
  Result<DeviceMemory> collected = DeviceMemory::Get(device, bytes + RowBytes(bytes));
  if (!collected.ok()) return collected.status();
  reader->collected_ = std::move(collected.value());
  Result<std::byte*> pinned = device->space->AllocateHost(bytes + RowBytes(bytes));
  if (!pinned.ok()) return pinned.status();
  reader->pinned_ = pinned.value();
  Result<Stream> stream = device->space->NewStream();
  if (!stream.ok()) return stream.status();
  reader->stream_ = stream.value();
  return reader;
}

DeviceReader::~DeviceReader() {
  if (stream_ != nullptr) {
    static_cast<void>(space_->Wait(stream_));  // of what nobody has taken
    space_->FreeStream(stream_);
  }
  if (pinned_ != nullptr) space_->FreeHost(pinned_);
}

Status DeviceReader::Add(const std::byte* from, size_t bytes) {
  RECIS_CHECK(bytes <= room());
  RECIS_RETURN_IF_ERROR(space_->Order(device_->stream, stream_));
  RECIS_RETURN_IF_ERROR(space_->Copy(pinned_ + added_, from, bytes, stream_));
  added_ += bytes;
  return {};
}

Status DeviceReader::AddRecords(const DeviceTableView& table, const Row* rows, int64_t n,
                                size_t bytes) {
  RECIS_CHECK(added_ == 0 && n * bytes <= room_);
  // Copying from memory that is not pinned could wait for the device.
  std::byte* const pinned_rows = pinned_ + room_;
  std::byte* const device_rows = collected_.data() + room_;
  std::copy_n(rows, n, reinterpret_cast<Row*>(pinned_rows));
  RECIS_RETURN_IF_ERROR(space_->Copy(device_rows, pinned_rows, n * sizeof(Row), device_->stream));
  RECIS_RETURN_IF_ERROR(device_->kernels->Gather(
      table, {reinterpret_cast<const Row*>(device_rows), nullptr, n, 0, bytes, collected_.data()},
      device_->stream));
  return Add(collected_.data(), n * bytes);
}

Result<const std::byte*> DeviceReader::Take() {
  added_ = 0;
  RECIS_RETURN_IF_ERROR(space_->Wait(stream_));
  return static_cast<const std::byte*>(pinned_);
}

}  // namespace recis
