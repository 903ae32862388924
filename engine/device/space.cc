#include "device/space.h"

#include <cstring>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>

namespace recis {
namespace {

constexpr std::align_val_t kAlignment{256};

thread_local Stream stream_in_use = nullptr;

class Emulated : public Space {
 public:
  explicit Emulated(size_t bytes) : bytes_(bytes), free_(bytes) {}

  const std::string& name() const override { return name_; }

  Result<std::byte*> Allocate(size_t bytes, Stream) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > free_) {
      return OutOfMemory(name_ + ": " + std::to_string(bytes) + " bytes were asked for, " +
                         std::to_string(free_) + " of " + std::to_string(bytes_) + " are free");
    }
    Memory memory(static_cast<std::byte*>(::operator new(bytes, kAlignment)));
    std::byte* address = memory.get();
    held_.emplace(address, Held{std::move(memory), bytes});
    free_ -= bytes;
    return address;
  }
  void Free(std::byte* memory, Stream) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto held = held_.find(memory);
    RECIS_CHECK(held != held_.end());
    free_ += held->second.bytes;
    held_.erase(held);
  }

  Result<std::byte*> AllocateHost(size_t bytes) override {
    return static_cast<std::byte*>(::operator new(bytes, kAlignment));
  }
  void FreeHost(std::byte* memory) override { ::operator delete(memory, kAlignment); }

  Status Copy(void* to, const void* from, size_t bytes, Stream) override {
    if (bytes != 0) std::memcpy(to, from, bytes);
    return {};
  }
  Status Fill(void* to, uint8_t value, size_t bytes, Stream) override {
    if (bytes != 0) std::memset(to, value, bytes);
    return {};
  }

  Result<Stream> NewStream() override { return Stream{nullptr}; }
  void FreeStream(Stream) override {}
  Status Order(Stream, Stream) override { return {}; }
  Status Wait(Stream) override { return {}; }

 private:
  struct Delete {
    void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
  };
  using Memory = std::unique_ptr<std::byte, Delete>;
  struct Held {
    Memory memory;
    size_t bytes;
  };

  const std::string name_ = "emulated";
  const size_t bytes_;
  std::mutex mutex_;
  size_t free_;                                // GUARDED_BY(mutex_)
  std::unordered_map<std::byte*, Held> held_;  // GUARDED_BY(mutex_)
};

}  // namespace

void UseStream(Stream stream) { stream_in_use = stream; }
Stream StreamInUse() { return stream_in_use; }

std::shared_ptr<Space> EmulatedSpace(size_t bytes) { return std::make_shared<Emulated>(bytes); }

}  // namespace recis
