#include "device/memory.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

bool IsZero(const Slab& slab) {
  return std::all_of(slab.data(), slab.data() + slab.bytes(),
                     [](std::byte b) { return b == std::byte{0}; });
}

TEST(ASlabIsZeroedAndLargeEnough) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, 4 * kMiB}) {
    for (int round = 0; round < 2; ++round) {  // the second may get the first one's place
      Result<Slab> slab = Slab::Map(bytes);
      EXPECT(slab.ok());
      EXPECT_LE(bytes, slab.value().bytes());
      EXPECT(IsZero(slab.value()), bytes);
      std::memset(slab.value().data(), 0xff, slab.value().bytes());
    }
  }
}

TEST(LargePagesAlignASlabAndKeepItZeroed) {
  SetLargePages(true);
  Result<Slab> large = Slab::Map(5 * kMiB);
  Result<Slab> small = Slab::Map(kMiB);
  SetLargePages(false);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.value().data()) % (2 * kMiB), 0u);
  EXPECT_EQ(large.value().bytes(), 6 * kMiB);
  EXPECT(IsZero(large.value()));
  std::memset(large.value().data(), 0xff, large.value().bytes());
  EXPECT_EQ(small.value().bytes(), kMiB);  // too small for one
}

TEST(ASlabTheSystemRefusesIsAnError) {
  for (const bool large : {false, true}) {
    SetLargePages(large);
    const Result<Slab> slab = Slab::Map(size_t{1} << 62);
    SetLargePages(false);
    EXPECT(slab.status().code() == Code::kOutOfMemory);
    EXPECT(slab.status().message().find("4611686018427387904 bytes") != std::string::npos);
  }
}

TEST(AMovedSlabHasOneOwner) {
  Slab first = std::move(Slab::Map(4096).value());
  Slab second = std::move(Slab::Map(8192).value());
  std::byte* data = first.data();
  second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.bytes(), 4096u);
  const Slab third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(second.data(), nullptr);
}

TEST(ABufferIsAlignedAndWastesAtMostAnEighth) {
  for (size_t bytes = 0; bytes < 3 * kMiB; bytes = bytes * 9 / 8 + 13) {
    const Buffer buffer = BufferCache::Get(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_LE(bytes, buffer.bytes());
    EXPECT_LE(buffer.bytes(), std::max(bytes + bytes / 8, bytes + 63));
    std::memset(buffer.data(), 0xff, buffer.bytes());
  }
}

TEST(ABufferReturnsToTheCacheAndComesBackWarm) {
  BufferCache::Clear();
  std::byte* data;
  {
    const Buffer cold = BufferCache::Get(kMiB);
    data = cold.data();
    EXPECT(!cold.warm());
    EXPECT_EQ(BufferCache::IdleBytes(), 0u);
  }
  EXPECT_EQ(BufferCache::IdleBytes(), kMiB);
  const Buffer other = BufferCache::Get(2 * kMiB);  // another size: not this one
  EXPECT_NE(other.data(), data);
  const Buffer warm = BufferCache::Get(kMiB);
  EXPECT(warm.warm());
  EXPECT_EQ(warm.data(), data);
  EXPECT_EQ(BufferCache::IdleBytes(), 0u);
}

TEST(NearlyEqualSizesShareABuffer) {
  BufferCache::Clear();
  std::byte* const data = BufferCache::Get(kMiB - 1000).data();
  EXPECT_EQ(BufferCache::Get(kMiB - 3000).data(), data);
}

TEST(SmallBuffersAreNotKept) {
  BufferCache::Clear();
  {
    const Buffer small = BufferCache::Get(60 << 10);
  }
  EXPECT_EQ(BufferCache::IdleBytes(), 0u);
}

TEST(TheNewestIdleBufferComesBackFirst) {
  BufferCache::Clear();
  Buffer first = BufferCache::Get(kMiB), second = BufferCache::Get(kMiB);
  std::byte* const data[] = {first.data(), second.data()};
  first = Buffer();
  second = Buffer();
  EXPECT_EQ(BufferCache::Get(kMiB).data(), data[1]);
}

TEST(IdleMemoryIsBoundedAndTheOldestGoes) {
  BufferCache::Clear();
  std::vector<Buffer> buffers;
  buffers.push_back(BufferCache::Get(2 * kMiB));
  for (int i = 0; i < 300; ++i) buffers.push_back(BufferCache::Get(kMiB));
  for (Buffer& buffer : buffers) {
    buffer = Buffer();
    EXPECT_LE(BufferCache::IdleBytes(), BufferCache::kMaxIdleBytes);
  }
  EXPECT_EQ(BufferCache::IdleBytes(), BufferCache::kMaxIdleBytes);
  EXPECT(!BufferCache::Get(2 * kMiB).warm());  // it was the first to become idle
  EXPECT(BufferCache::Get(kMiB).warm());
  BufferCache::Clear();
  EXPECT_EQ(BufferCache::IdleBytes(), 0u);
}

TEST(ABufferBeyondTheBoundDisplacesNoOther) {
  BufferCache::Clear();
  {
    const Buffer kept = BufferCache::Get(kMiB);
  }
  {
    const Buffer huge = BufferCache::Get(BufferCache::kMaxIdleBytes + 1);
  }
  EXPECT_EQ(BufferCache::IdleBytes(), kMiB);
  BufferCache::Clear();
}

TEST(AMovedBufferIsReturnedOnce) {
  BufferCache::Clear();
  {
    Buffer first = BufferCache::Get(kMiB);
    Buffer second = std::move(first);
    EXPECT_EQ(first.data(), nullptr);
    Buffer third;
    third = std::move(second);
    EXPECT_EQ(third.bytes(), kMiB);
  }
  EXPECT_EQ(BufferCache::IdleBytes(), kMiB);
  BufferCache::Clear();
}

TEST(ThreadsShareTheCacheAndNeverABuffer) {
  std::atomic<int> wrong{0};
  const auto use = [&](int value) {
    for (int round = 0; round < 500; ++round) {
      const Buffer buffer = BufferCache::Get((64 + round % 8) << 10);
      std::memset(buffer.data(), value, 1000);
      std::this_thread::yield();
      wrong += std::count(buffer.data(), buffer.data() + 1000, std::byte(value)) != 1000;
    }
  };
  std::thread other(use, 1);
  use(2);
  other.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_LE(BufferCache::IdleBytes(), BufferCache::kMaxIdleBytes);
}

TEST(AForkedChildHasACacheWhateverTheParentsThreadsWereDoing) {
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) BufferCache::Get(kMiB);
  });
  int status = 0;
  for (int round = 0; round < 100 && status == 0; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      {
        const Buffer buffer = BufferCache::Get(kMiB);
      }
      _exit(BufferCache::IdleBytes() == 0);
    }
    waitpid(child, &status, 0);
  }
  done = true;
  other.join();
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace recis
