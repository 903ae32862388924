#include "device/device_memory.h"

#include <algorithm>

namespace recis {

namespace {
// Where the device cannot keep the order, the host does.
void Order(Space& space, Stream before, Stream after) {
  if (!space.Order(before, after).ok()) static_cast<void>(space.Wait(before));
}
}  // namespace

void Device::GoOnAt(Stream next) {
  const Stream before = stream;
  if (before == next) return;
  Order(*space, before, next);
  stream = next;  // not sooner: memory that is given back now may still be in use on the other
}

Device::~Device() {
  for (const Stream made : {own_stream, copy_stream}) {
    if (made != nullptr) space->FreeStream(made);
  }
}

Status Device::MakeOwnStreams() {
  for (Stream* each : {&own_stream, &copy_stream}) {
    if (*each != nullptr) continue;
    Result<Stream> made = space->NewStream();
    if (!made.ok()) return made.status();
    *each = made.value();
  }
  return {};
}

OnOwnStream::OnOwnStream(Device& device, For whom)
    : device_(device), whom_(whom), callers_(StreamInUse()) {
  if (whom_ == For::kCaller) Order(*device_.space, callers_, device_.own_stream);
  UseStream(device_.own_stream);
  device_.GoOnAt(device_.own_stream);
}

OnOwnStream::~OnOwnStream() {
  if (whom_ == For::kCaller) Order(*device_.space, device_.own_stream, callers_);
  UseStream(callers_);
}

std::shared_ptr<Device> EmulatedDevice(std::shared_ptr<DeviceKernels> kernels,
                                       std::shared_ptr<Space> space) {
  return std::make_shared<Device>(std::move(space), std::move(kernels));
}

Result<std::shared_ptr<Device>> CudaDevice(int index) {
  Result<std::shared_ptr<Space>> space = CudaSpace(index);
  if (!space.ok()) return space.status();
  Result<std::shared_ptr<DeviceKernels>> kernels = CudaKernels(space.value(), index);
  if (!kernels.ok()) return kernels.status();
  return std::make_shared<Device>(std::move(space.value()), std::move(kernels.value()));
}

Result<DeviceMemory> DeviceMemory::Get(std::shared_ptr<Device> device, size_t bytes) {
  Result<std::byte*> data = device->space->Allocate(std::max<size_t>(bytes, 1), device->stream);
  if (!data.ok()) return data.status();
  DeviceMemory memory;
  memory.device_ = std::move(device);
  memory.data_ = data.value();
  memory.bytes_ = bytes;
  return memory;
}

DeviceChunks::DeviceChunks(std::shared_ptr<Device> device, size_t element_bytes,
                           uint32_t chunk_elements)
    : device_(std::move(device)),
      element_bytes_(element_bytes),
      // A chunk of one would need the inverse of one, which does not fit.
      chunk_elements_(std::max<uint32_t>(chunk_elements, 2)) {}

Status DeviceChunks::Reserve(int64_t size) {
  if (size <= reserved()) return {};
  const size_t count = static_cast<size_t>((size + chunk_elements_ - 1) / chunk_elements_);
  std::vector<DeviceMemory> fresh;
  std::vector<std::byte*> addresses;
  for (const DeviceMemory& chunk : chunks_) addresses.push_back(chunk.data());
  while (addresses.size() < count) {
    Result<DeviceMemory> chunk = DeviceMemory::Get(device_, element_bytes_ * chunk_elements_);
    if (!chunk.ok()) return chunk.status();
    addresses.push_back(chunk.value().data());
    RECIS_RETURN_IF_ERROR(
        device_->space->Fill(chunk.value().data(), 0, chunk.value().bytes(), device_->stream));
    fresh.push_back(std::move(chunk.value()));
  }
  Result<DeviceMemory> table = DeviceMemory::Get(device_, count * sizeof(std::byte*));
  if (!table.ok()) return table.status();
  RECIS_RETURN_IF_ERROR(device_->space->Copy(table.value().data(), addresses.data(),
                                             count * sizeof(std::byte*), device_->stream));
  RECIS_RETURN_IF_ERROR(device_->space->Wait(device_->stream));  // `addresses` goes
  addresses_ = std::move(table.value());
  std::move(fresh.begin(), fresh.end(), std::back_inserter(chunks_));
  return {};
}

ChunkView DeviceChunks::view() const {
  return {reinterpret_cast<std::byte* const*>(addresses_.data()),
          ~uint64_t{0} / chunk_elements_ + 1, chunk_elements_, element_bytes_};
}

}  // namespace recis
