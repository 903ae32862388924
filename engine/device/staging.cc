#include "device/staging.h"

#include <utility>

namespace recis {

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

}  // namespace recis
