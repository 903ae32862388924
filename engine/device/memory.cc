#include "device/memory.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <string>

namespace recis {
namespace {

std::atomic<bool> large_pages{false};

std::byte* MapPages(size_t bytes) {
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? nullptr : static_cast<std::byte*>(pages);
}

// The system aligns mappings to small pages only: map more, and trim both ends.
std::byte* MapLargePages(size_t bytes) {
  std::byte* wide = MapPages(bytes + kLargePageBytes);
  if (wide == nullptr) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(wide);
  const size_t head = (kLargePageBytes - address % kLargePageBytes) % kLargePageBytes;
  if (head != 0) munmap(wide, head);
  munmap(wide + head + bytes, kLargePageBytes - head);
  madvise(wide + head, bytes, MADV_HUGEPAGE);  // advice: a refusal costs speed only
  return wide + head;
}

}  // namespace

void SetLargePages(bool on) { large_pages.store(on, std::memory_order_relaxed); }
bool LargePages() { return large_pages.load(std::memory_order_relaxed); }

Result<Slab> Slab::Map(size_t bytes, bool large_pages) {
  const bool large = large_pages && bytes >= kLargePageBytes;
  const size_t page = large ? kLargePageBytes : 4096;
  const size_t rounded = (bytes + page - 1) / page * page;
  std::byte* data = large ? MapLargePages(rounded) : MapPages(rounded);
  if (data == nullptr) {
    return OutOfMemory("the system refused " + std::to_string(rounded) +
                       " bytes of memory: " + std::strerror(errno));
  }
  return Slab(data, rounded);
}

void Slab::Discard(size_t offset) {
  const size_t begin = (offset + 4095) / 4096 * 4096;
  std::memset(data_ + offset, 0, std::min(begin, bytes_) - offset);
  if (begin < bytes_) madvise(data_ + begin, bytes_ - begin, MADV_DONTNEED);
}

Slab::~Slab() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

namespace {

struct IdleBuffer {
  std::byte* data;
  size_t bytes;
};

// Leaked on purpose: buffers of tensors that outlive the module come back here.
struct IdleBuffers {
  std::mutex mutex;
  std::deque<IdleBuffer> oldest_first;  // GUARDED_BY(mutex)
  size_t bytes = 0;                     // GUARDED_BY(mutex)
};
IdleBuffers& Idle() {
  static IdleBuffers* idle = [] {
    // fork() waits for whoever changes the list, or the child would find it locked for good.
    pthread_atfork([] { Idle().mutex.lock(); }, [] { Idle().mutex.unlock(); },
                   [] { Idle().mutex.unlock(); });
    return new IdleBuffers;
  }();
  return *idle;
}

constexpr std::align_val_t kAlignment{64};
void Free(std::byte* data) { ::operator delete(data, kAlignment); }

// Smaller blocks are quick to get from the system, and would crowd the search.
constexpr size_t kMinCachedBytes = size_t{64} << 10;

// Sizes are rounded up by at most an eighth, so that batches of nearly one size share.
size_t RoundUp(size_t bytes) {
  const size_t step = std::max<size_t>(std::bit_floor(bytes | 1) / 8, 64);
  return (bytes + step - 1) / step * step;
}

}  // namespace

Buffer BufferCache::Get(size_t bytes) {
  const size_t rounded = RoundUp(bytes);
  if (rounded >= kMinCachedBytes) {
    IdleBuffers& idle = Idle();
    std::lock_guard<std::mutex> lock(idle.mutex);
    auto& buffers = idle.oldest_first;
    // Newest first: its pages are the likeliest to be in the processor's cache.
    for (auto it = buffers.rbegin(); it != buffers.rend(); ++it) {
      if (it->bytes != rounded) continue;
      std::byte* data = it->data;
      buffers.erase(std::next(it).base());
      idle.bytes -= rounded;
      return Buffer(data, rounded, /*warm=*/true);
    }
  }
  auto* data = static_cast<std::byte*>(::operator new(rounded, kAlignment));
  return Buffer(data, rounded, /*warm=*/false);
}

void BufferCache::Put(std::byte* data, size_t bytes) noexcept {
  if (bytes < kMinCachedBytes || bytes > kMaxIdleBytes) return Free(data);
  IdleBuffers& idle = Idle();
  std::lock_guard<std::mutex> lock(idle.mutex);
  while (idle.bytes + bytes > kMaxIdleBytes) {
    Free(idle.oldest_first.front().data);
    idle.bytes -= idle.oldest_first.front().bytes;
    idle.oldest_first.pop_front();
  }
  idle.oldest_first.push_back({data, bytes});
  idle.bytes += bytes;
}

size_t BufferCache::IdleBytes() {
  std::lock_guard<std::mutex> lock(Idle().mutex);
  return Idle().bytes;
}

void BufferCache::Clear() {
  IdleBuffers& idle = Idle();
  std::lock_guard<std::mutex> lock(idle.mutex);
  for (const IdleBuffer& buffer : idle.oldest_first) Free(buffer.data);
  idle.oldest_first.clear();
  idle.bytes = 0;
}

Buffer::~Buffer() {
  if (data_ != nullptr) BufferCache::Put(data_, bytes_);
}

}  // namespace recis
