#include "base/shared_mutex.h"

#include <atomic>
#include <chrono>
#include <shared_mutex>
#include <thread>

#include "base/testing.h"

namespace recis {
namespace {

// Two readers relieve each other: one leaves only when the other has come, or seems to be kept out.
TEST(AWriterGetsInAmongReadersThatRelieveEachOther) {
  SharedMutex mutex;
  std::atomic<int> readers{0}, reads{0};
  std::atomic<bool> written{false};
  int turns[2] = {0, 0};
  const auto read = [&](int& turn) {
    for (; turn < 500 && !written; ++turn) {
      const std::shared_lock<SharedMutex> lock(mutex);
      ++readers;
      ++reads;
      for (int i = 0; i < 100 && readers < 2 && !written; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
      --readers;
    }
  };
  std::thread a(read, std::ref(turns[0])), b(read, std::ref(turns[1]));
  while (reads < 2) std::this_thread::yield();
  mutex.lock();
  written = true;
  mutex.unlock();
  a.join();
  b.join();
  EXPECT(turns[0] < 500 && turns[1] < 500, turns[0], turns[1]);
}

}  // namespace
}  // namespace recis
