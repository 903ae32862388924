// A device whose use tests look at.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device/space.h"

namespace recis::testing {

// The emulated device, which counts waits and notes orders, and whose memory holds no zeros.
class WatchedSpace : public Space {
 public:
  explicit WatchedSpace(size_t bytes) : space_(EmulatedSpace(bytes)) {}

  const std::string& name() const override { return space_->name(); }
  Result<std::byte*> Allocate(size_t bytes, Stream stream) override {
    Result<std::byte*> memory = space_->Allocate(bytes, stream);
    if (memory.ok()) std::memset(memory.value(), 0xa5, bytes);  // nobody may count on zeros
    return memory;
  }
  void Free(std::byte* memory, Stream stream) override { space_->Free(memory, stream); }
  Result<std::byte*> AllocateHost(size_t bytes) override { return space_->AllocateHost(bytes); }
  void FreeHost(std::byte* memory) override { space_->FreeHost(memory); }
  Status Copy(void* to, const void* from, size_t bytes, Stream stream) override {
    return space_->Copy(to, from, bytes, stream);
  }
  Status Fill(void* to, uint8_t value, size_t bytes, Stream stream) override {
    return space_->Fill(to, value, bytes, stream);
  }
  Result<Stream> NewStream() override {
    ++streams;
    return Stream{new char};
  }
  void FreeStream(Stream stream) override {
    --streams;
    delete static_cast<char*>(stream);
  }
  Status Order(Stream before, Stream after) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    orders.emplace_back(before, after);
    return space_->Order(before, after);
  }
  Status Wait(Stream stream) override {
    ++waits;
    return space_->Wait(stream);
  }

  std::atomic<int> waits = 0;
  int streams = 0;  // made and not freed
  std::vector<std::pair<Stream, Stream>> orders;

 private:
  std::mutex mutex_;  // guards orders
  std::shared_ptr<Space> space_;
};

}  // namespace recis::testing
