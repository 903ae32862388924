#include "base/thread_pool.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "base/yield.h"

namespace recis {
namespace {

constexpr int kMaxThreads = 256;

// Before it sleeps, a worker watches for the next job this many times: a lookup is a
// few short parallel loops in a row, and waking a sleeper costs more than one of them.
constexpr int kSpins = 1000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Threads: Run() by one caller at a time (busy_), workers otherwise.
// Invariants:
//  (1) `job_` changes only under mutex_, when no worker is inside a job.
//  (2) `next_chunk_` hands out each chunk once; `running_` counts the workers that may
//      still touch the job, so Run() returns only when the job's stack frame is free.
class ThreadPool {
 public:
  bool Run(int chunks, int threads, internal::Task task, void* context) {
    if (busy_.test_and_set(std::memory_order_acquire)) return false;
    EnsureWorkers(threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = task;
      context_ = context;
      chunks_ = chunks;
      helpers_wanted_ = threads - 1;
      next_chunk_.store(0, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    MaybeYield();
    WorkOnChunks(task, context, chunks);
    MaybeYield();
    // From here no worker can join; those that did are waited for.
    std::unique_lock<std::mutex> lock(mutex_);
    chunks_ = 0;
    lock.unlock();
    for (int i = 0; running_.load(std::memory_order_acquire) != 0; ++i) {
      i < kSpins ? Pause() : std::this_thread::yield();
    }
    busy_.clear(std::memory_order_release);
    return true;
  }

 private:
  void WorkOnChunks(internal::Task task, void* context, int chunks) {
    for (;;) {
      const int chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= chunks) return;
      MaybeYield();
      task(context, chunk);
    }
  }

  void EnsureWorkers(int wanted) {
    while (workers_ < wanted) {
      try {
        std::thread(&ThreadPool::WorkerLoop, this).detach();
      } catch (const std::exception&) {
        return;  // fewer threads: the caller does the rest itself
      }
      ++workers_;
    }
  }

  void WorkerLoop() {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) {
        Pause();
      }
      MaybeYield();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      seen = generation_.load(std::memory_order_relaxed);
      const int chunks = chunks_;
      const internal::Task task = task_;
      void* const context = context_;
      if (chunks == 0) continue;  // woke after the job was over
      if (running_.load(std::memory_order_relaxed) == helpers_wanted_) continue;
      running_.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      MaybeYield();
      WorkOnChunks(task, context, chunks);
      MaybeYield();
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  // Set by the caller whose job runs. Not a mutex: a task of that job may ask again on the
  // same thread.
  std::atomic_flag busy_;
  std::mutex mutex_;
  std::condition_variable wake_;
  internal::Task task_ = nullptr;  // GUARDED_BY(mutex_)
  void* context_ = nullptr;        // GUARDED_BY(mutex_)
  int chunks_ = 0;                 // GUARDED_BY(mutex_)
  int helpers_wanted_ = 0;         // GUARDED_BY(mutex_)
  int workers_ = 0;                // GUARDED_BY(busy_)
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> next_chunk_{0};
  std::atomic<int> running_{0};
};

constexpr int kBackgroundNice = 10;  // beside a busy thread, about a tenth of a processor

thread_local bool in_background = false;
std::atomic<int> thread_count{1};
std::atomic<ThreadPool*> pool{nullptr};

ThreadPool& Pool() {
  static const bool made = [] {
    pool.store(new ThreadPool);
    // The child has none of the parent's threads, and perhaps a locked mutex: it leaves
    // the old pool alone and starts with a new one.
    pthread_atfork(nullptr, nullptr, [] { pool.store(new ThreadPool); });
    return true;
  }();
  (void)made;
  return *pool.load(std::memory_order_acquire);
}

}  // namespace

void SetThreadCount(int count) {
  thread_count.store(std::clamp(count, 1, kMaxThreads), std::memory_order_relaxed);
}

int ThreadCount() { return thread_count.load(std::memory_order_relaxed); }

void EnterBackground() {
  if (std::exchange(in_background, true)) return;
  // On Linux a priority is a thread's own. Where it cannot be lowered, it stays.
  const auto thread = static_cast<id_t>(gettid());
  (void)setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + kBackgroundNice);
}

void internal::RunTasks(int chunks, Task task, void* context) {
  if (!in_background && Pool().Run(chunks, std::min(chunks, ThreadCount()), task, context)) return;
  for (int chunk = 0; chunk < chunks; ++chunk) task(context, chunk);
}

}  // namespace recis
