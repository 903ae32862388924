#include "base/thread_pool.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing.h"

#if defined(__SANITIZE_THREAD__)
// ThreadSanitizer ends a forked child that starts threads, unless told not to.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {
  return "die_after_fork=0";
}
#endif

namespace recis {
namespace {

using Ranges = std::set<std::pair<int64_t, int64_t>>;

Ranges RangesOf(int64_t n, int64_t grain) {
  std::mutex mutex;
  Ranges ranges;
  ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
    std::lock_guard<std::mutex> lock(mutex);
    ranges.emplace(begin, end);
  });
  return ranges;
}

// Adds one to each of `n` counts; true if each was met exactly once.
bool CoversOnce(int64_t n, int64_t grain) {
  std::vector<int> visits(static_cast<size_t>(n));
  ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++visits[i];
  });
  return visits == std::vector<int>(static_cast<size_t>(n), 1);
}

TEST(EveryItemIsMetOnce) {
  for (const int threads : {1, 2, 3, 4, 9}) {
    SetThreadCount(threads);
    for (const int64_t n : {0, 1, 2, 3, 7, 8, 100, 1000, 12345}) {
      for (const int64_t grain : {1, 3, 100, 5000}) EXPECT(CoversOnce(n, grain), threads, n, grain);
    }
  }
}

TEST(RangesKeepTheGrainAndTheThreadCount) {
  SetThreadCount(4);
  EXPECT_EQ(RangesOf(0, 1).size(), 0u);
  for (const int64_t n : {1, 2, 5, 39, 40, 41, 1000}) {
    const Ranges ranges = RangesOf(n, 10);
    EXPECT_LE(ranges.size(), static_cast<size_t>(4 * kChunksPerThread));
    EXPECT_EQ(ranges, RangesOf(n, 10), n);
    for (const auto& [begin, end] : ranges) EXPECT_LE(std::min<int64_t>(n, 10), end - begin, n);
  }
  EXPECT_EQ(RangesOf(1000, 10).size(), static_cast<size_t>(4 * kChunksPerThread));
}

TEST(TheThreadCountIsClamped) {
  SetThreadCount(-3);
  EXPECT_EQ(ThreadCount(), 1);
  SetThreadCount(1 << 30);
  EXPECT_EQ(ThreadCount(), 256);
}

// Each of three chunks waits for all: were they run in turn, this would not end.
void MeetInThreeChunks() {
  SetThreadCount(3);
  std::atomic<int> arrived{0};
  ParallelFor(3, 1, [&](int64_t, int64_t) {
    arrived.fetch_add(1);
    while (arrived.load() < 3) std::this_thread::yield();
  });
}

TEST(ChunksRunSideBySide) {
  for (int round = 0; round < 100; ++round) MeetInThreeChunks();
}

TEST(NoMoreThreadsRunThanWereAskedFor) {
  SetThreadCount(8);
  ParallelFor(8, 1, [](int64_t, int64_t) {});  // now there are workers to spare
  SetThreadCount(2);
  std::atomic<int> running{0}, most{0};
  for (int round = 0; round < 200; ++round) {
    ParallelFor(8, 1, [&](int64_t, int64_t) {
      const int now = running.fetch_add(1) + 1;
      for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
      }
      std::this_thread::yield();
      running.fetch_sub(1);
    });
  }
  EXPECT_LE(most.load(), 2);
}

TEST(WhatTheBodyWroteIsThereOnReturn) {
  SetThreadCount(4);
  for (int round = 0; round < 2000; ++round) {
    int64_t ends[4] = {};  // gone when this round is: a late worker would write elsewhere
    ParallelFor(4, 1, [&](int64_t begin, int64_t end) { ends[begin] = end + round; });
    for (int i = 0; i < 4; ++i) EXPECT_EQ(ends[i], i + 1 + round);
  }
}

TEST(ABodyMayCallParallelFor) {
  SetThreadCount(4);
  std::vector<int> visits(64 * 64);
  ParallelFor(64, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      ParallelFor(64, 1, [&](int64_t first, int64_t last) {
        for (int64_t k = first; k < last; ++k) ++visits[i * 64 + k];
      });
    }
  });
  EXPECT_EQ(visits, std::vector<int>(64 * 64, 1));
}

TEST(CallersDoNotDisturbEachOther) {
  SetThreadCount(3);
  std::atomic<int> wrong{0};
  const auto call = [&] {
    for (int round = 0; round < 300; ++round) wrong += !CoversOnce(500 + round, 7);
  };
  std::thread other(call), third(call);
  call();
  other.join();
  third.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(TheThreadCountMayChangeWhileOthersWork) {
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::thread worker([&] {
    while (!done) wrong += !CoversOnce(1000, 1);
  });
  for (int round = 0; round < 500; ++round) {
    SetThreadCount(1 + round % 16);  // more than any test before: the pool grows
    wrong += !CoversOnce(100, 1);
  }
  done = true;
  worker.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(AForkedChildMakesThreadsOfItsOwn) {
  MeetInThreeChunks();  // the parent has workers, which the child will lack
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    MeetInThreeChunks();
    _exit(CoversOnce(1000, 1) ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  MeetInThreeChunks();
}

TEST(AThreadInTheBackgroundWorksAloneAndGivesWay) {
  SetThreadCount(4);
  const auto priority = [] { return getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())); };
  const int before = priority();
  std::thread([&] {
    EnterBackground();
    EnterBackground();  // no further down
    EXPECT_EQ(priority(), std::min(before + 10, 19));
    std::set<std::thread::id> threads;
    EXPECT(CoversOnce(12345, 1));
    ParallelFor(1000, 1, [&](int64_t, int64_t) { threads.insert(std::this_thread::get_id()); });
    EXPECT(threads == std::set<std::thread::id>{std::this_thread::get_id()});
  }).join();
  EXPECT_EQ(priority(), before);
  SetThreadCount(1);
}

}  // namespace
}  // namespace recis
