// The engine's own thread pool: ParallelFor over a range, results independent of the
// number of threads.
//
// Not OpenMP: its parallel regions hang in a forked child, and data loaders fork.
//
// Threads: ParallelFor from any thread. One caller at a time gets the workers; a
//   caller who finds them busy runs its own range alone, so callers never wait for
//   one another and a task may itself call ParallelFor.
// Invariants:
//  (1) A chunk is a function of (n, grain, thread count) and which thread runs it is
//      not: callers must give results that do not depend on the cut.
//  (2) After fork() the child starts with no workers and makes its own when needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace recis {

// Sets how many threads a ParallelFor may use, the caller included; at least 1.
void SetThreadCount(int count);
int ThreadCount();

// From now on the calling thread leaves the processors to others: it and the threads that it
// starts run at a lower priority, and its own loops use no worker.
void EnterBackground();

namespace internal {
using Task = void (*)(void* context, int chunk);
void RunTasks(int chunks, Task task, void* context);
}  // namespace internal

// A thread may start late, where other work keeps its processor: with several chunks for
// each, those that have started do the rest.
inline constexpr int64_t kChunksPerThread = 4;

// Calls body(begin, end) on disjoint ranges that cover [0, n), each of at least
// `grain` items, and returns when all have returned. `body` must not throw.
template <class Body>
void ParallelFor(int64_t n, int64_t grain, Body&& body) {
  if (n <= 0) return;
  const int64_t most = ThreadCount() == 1 ? 1 : ThreadCount() * kChunksPerThread;
  const int64_t chunks = std::min<int64_t>(most, std::max<int64_t>(n / grain, 1));
  if (chunks == 1) {
    body(int64_t{0}, n);
    return;
  }
  struct Context {
    std::remove_reference_t<Body>* body;
    int64_t n, chunks;
  } context{&body, n, chunks};
  internal::RunTasks(
      static_cast<int>(chunks),
      [](void* opaque, int chunk) {
        const Context& c = *static_cast<Context*>(opaque);
        const int64_t begin = c.n * chunk / c.chunks, end = c.n * (chunk + 1) / c.chunks;
        (*c.body)(begin, end);
      },
      &context);
}

}  // namespace recis
