#include "base/worker.h"

#include <utility>

#include "base/fork.h"

namespace recis {

Worker::Worker(size_t most) : most_(most), fork_generation_(ForkGeneration()) {}

Worker::~Worker() {
  Stop();
  // In a child there is no thread to join.
  if (thread_.joinable()) thread_.detach();
}

void Worker::Add(std::function<void()> task) {
  if (ForkGeneration() != fork_generation_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_) return;
  if (tasks_.size() == most_) tasks_.pop_front();
  tasks_.push_back(std::move(task));
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  changed_.notify_all();
}

void Worker::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopped_ || !tasks_.empty(); });
    if (stopped_) return;
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    running_ = true;
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
    running_ = false;
    changed_.notify_all();
  }
}

void Worker::Stop() {
  if (ForkGeneration() != fork_generation_) return;
  std::unique_lock<std::mutex> lock(mutex_);
  stopped_ = true;
  tasks_.clear();
  changed_.notify_all();
  std::thread thread = std::move(thread_);
  lock.unlock();
  if (thread.joinable()) thread.join();
}

void Worker::Drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return stopped_ || (tasks_.empty() && !running_); });
}

}  // namespace recis
