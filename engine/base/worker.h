// One background thread that runs tasks in the order they came.
//
// Threads: any method from any thread.
// Invariants:
//  (1) A child made by fork() has no such thread: its Worker runs nothing and stops at once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace recis {

class Worker {
 public:
  // At most `most` tasks wait; the oldest is dropped for a newer one.
  explicit Worker(size_t most);
  ~Worker();  // see Stop()

  // Starts the thread with the first task.
  void Add(std::function<void()> task);
  // Drops what waits and returns when the task that runs has ended. Nothing runs afterwards.
  void Stop();
  // Returns when nothing waits or runs.
  void Drain();

 private:
  void Run();

  const size_t most_;
  const uint64_t fork_generation_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // GUARDED_BY(mutex_)
  bool running_ = false;                     // GUARDED_BY(mutex_): a task
  bool stopped_ = false;                     // GUARDED_BY(mutex_)
  std::thread thread_;                       // GUARDED_BY(mutex_)
};

}  // namespace recis
