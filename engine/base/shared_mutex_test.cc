#include "base/shared_mutex.h"

#include <atomic>
#include <chrono>
#include <shared_mutex>
#include <thread>

#include "base/testing.h"

namespace recis {
namespace {

// Two readers relieve each other: one leaves only when the other has come since, or seems to be
// kept out. They give up when that has kept a writer out for as long as no system stalls a thread.
TEST(AWriterGetsInAmongReadersThatRelieveEachOther) {
  using Clock = std::chrono::steady_clock;
  SharedMutex mutex;
  std::atomic<int> entered[2] = {0, 0};
  std::atomic<bool> written{false}, gave_up{false};
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  const auto read = [&](int self) {
    while (!written && !gave_up) {
      const std::shared_lock<SharedMutex> lock(mutex);
      ++entered[self];
      const int before = entered[1 - self];
      for (int i = 0; i < 100 && entered[1 - self] == before && !written; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
      if (Clock::now() > deadline) gave_up = true;
    }
  };
  std::thread a(read, 0), b(read, 1);
  while (entered[0] == 0 || entered[1] == 0) std::this_thread::yield();
  mutex.lock();
  EXPECT(!gave_up);
  written = true;
  mutex.unlock();
  a.join();
  b.join();
}

}  // namespace
}  // namespace recis
