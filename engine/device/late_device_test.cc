#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "device/late_device_testing.h"

#define RECIS_ONE_LANE
#include "device/device_kernels_impl.h"
#include "device/executor_host.h"

namespace recis::testing {
namespace {

// Streams, and what is still to be done on each.
class LateStreams {
 public:
  explicit LateStreams(uint64_t seed) : random_(seed) {}

  void Enqueue(Stream stream, std::function<void()> work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Queue& queue = queues_[stream];
    queue.work.push_back(std::move(work));
    if (random_() % 4 == 0) DoUntil(queue, queue.end());
  }
  void Order(Stream before, Stream after) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Queue& queue = queues_[before];
    queues_[after].work.push_back([this, &queue, end = queue.end()] { DoUntil(queue, end); });
  }
  void Wait(Stream stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    DoUntil(queues_[stream], queues_[stream].end());
  }
  void WaitForAll() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [stream, queue] : queues_) DoUntil(queue, queue.end());
  }

 private:
  struct Queue {
    uint64_t end() const { return begun + work.size(); }
    uint64_t begun = 0;
    std::deque<std::function<void()>> work;
  };
  static void DoUntil(Queue& queue, uint64_t end) {
    while (queue.begun < end) {
      const std::function<void()> next = std::move(queue.work.front());
      queue.work.pop_front();
      ++queue.begun;
      next();
    }
  }

  std::mutex mutex_;
  std::mt19937_64 random_;          // GUARDED_BY(mutex_)
  std::map<Stream, Queue> queues_;  // GUARDED_BY(mutex_); they stay where they are
};

class LateExecutor {
 public:
  explicit LateExecutor(std::shared_ptr<LateStreams> streams) : streams_(std::move(streams)) {}

  template <int kLanes, class Body>
  void Run(int64_t n, const Body& body, Stream stream) {
    streams_->Enqueue(stream, [n, body] { HostExecutor().Run<kLanes>(n, body, nullptr); });
  }
  void Scan(uint32_t* values, int64_t n, Stream stream) {
    streams_->Enqueue(stream, [=] { HostExecutor().Scan(values, n, nullptr); });
  }
  void Sort(const uint32_t* keys, const uint32_t* values, uint32_t* sorted_keys,
            uint32_t* sorted_values, int bits, int64_t n, Stream stream) {
    streams_->Enqueue(stream, [=] {
      HostExecutor().Sort(keys, values, sorted_keys, sorted_values, bits, n, nullptr);
    });
  }
  Status status() { return {}; }

 private:
  const std::shared_ptr<LateStreams> streams_;
};

constexpr std::byte kGarbage{0xa5};

class LateSpace : public Space {
 public:
  explicit LateSpace(std::shared_ptr<LateStreams> streams) : streams_(std::move(streams)) {}
  ~LateSpace() override {
    streams_->WaitForAll();
    for (const auto& memory : freed_host_) {  // nothing was copied there since
      RECIS_CHECK(std::count(memory.begin(), memory.end(), kGarbage) == std::ssize(memory));
    }
  }

  const std::string& name() const override { return memory_->name(); }
  Result<std::byte*> Allocate(size_t bytes, Stream stream) override {
    Result<std::byte*> memory = memory_->Allocate(bytes, stream);
    if (memory.ok()) std::fill_n(memory.value(), bytes, kGarbage);
    return memory;
  }
  void Free(std::byte* memory, Stream stream) override {
    streams_->Enqueue(stream, [=, this] { memory_->Free(memory, stream); });
  }
  Result<std::byte*> AllocateHost(size_t bytes) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::byte> memory(bytes, kGarbage);
    std::byte* const address = memory.data();
    host_.emplace(address, std::move(memory));
    return address;
  }
  void FreeHost(std::byte* memory) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto freed = host_.extract(memory);
    std::fill(freed.mapped().begin(), freed.mapped().end(), kGarbage);
    freed_host_.push_back(std::move(freed.mapped()));
  }
  Status Copy(void* to, const void* from, size_t bytes, Stream stream) override {
    streams_->Enqueue(stream, [=, this] { (void)memory_->Copy(to, from, bytes, stream); });
    return {};
  }
  Status Fill(void* to, uint8_t value, size_t bytes, Stream stream) override {
    streams_->Enqueue(stream, [=, this] { (void)memory_->Fill(to, value, bytes, stream); });
    return {};
  }
  Result<Stream> NewStream() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return Stream{&new_streams_.emplace_back()};
  }
  void FreeStream(Stream) override {}  // what is on it is still done
  Status Order(Stream before, Stream after) override {
    streams_->Order(before, after);
    return {};
  }
  Status Wait(Stream stream) override {
    streams_->Wait(stream);
    return {};
  }

 private:
  const std::shared_ptr<Space> memory_ = EmulatedSpace();
  const std::shared_ptr<LateStreams> streams_;
  std::mutex mutex_;  // guards all below
  std::deque<char> new_streams_;
  std::map<std::byte*, std::vector<std::byte>> host_;
  std::vector<std::vector<std::byte>> freed_host_;
};

}  // namespace

std::shared_ptr<Device> LateDevice(uint64_t seed) {
  const auto streams = std::make_shared<LateStreams>(seed);
  return EmulatedDevice(std::make_shared<KernelsOn<LateExecutor>>(LateExecutor(streams)),
                        std::make_shared<LateSpace>(streams));
}

namespace {

// Copies a number to the device and back on these streams; what comes back. One in eight seeds does
// all of it at once.
int CopiedOn(uint64_t seed, bool ordered, bool waited) {
  const auto device = LateDevice(seed);
  Space& space = *device->space;
  const Stream first = space.NewStream().value(), second = space.NewStream().value();
  std::byte* memory = space.Allocate(sizeof(int), first).value();
  const int sent = 7;
  int back = 0;
  EXPECT(space.Copy(memory, &sent, sizeof(int), first).ok());
  if (ordered) EXPECT(space.Order(first, second).ok());
  EXPECT(space.Copy(&back, memory, sizeof(int), second).ok());
  if (waited) EXPECT(space.Wait(second).ok());
  const int seen = back;
  for (const Stream stream : {first, second}) EXPECT(space.Wait(stream).ok());
  space.Free(memory, second);
  return seen;
}

TEST(ALateDeviceDoesWhatIsWaitedForInOrder) {
  int unordered = 0, early = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(CopiedOn(seed, true, true), 7, seed);
    unordered += CopiedOn(seed, false, true) != 7;
    early += CopiedOn(seed, true, false) != 7;
  }
  EXPECT_LT(5, unordered);
  EXPECT_LT(5, early);
}

}  // namespace
}  // namespace recis::testing
