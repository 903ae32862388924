// Places where sanitizer builds sometimes let other threads go first.
//
// With every thread on its usual path the narrow races are never run: a yield beside an
// atomic or a lock, taken at random, is what makes them happen under ThreadSanitizer.
#pragma once

#if defined(RECIS_RANDOM_YIELDS)
#include <cstdint>
#include <thread>
#endif

namespace recis {

// Nothing, unless RECIS_RANDOM_YIELDS is defined.
inline void MaybeYield() {
#if defined(RECIS_RANDOM_YIELDS)
  static thread_local uint64_t state = reinterpret_cast<uintptr_t>(&state);
  state = state * 6364136223846793005u + 1442695040888963407u;
  for (uint64_t left = state >> 61; left > 4; --left) std::this_thread::yield();
#endif
}

// A Lock, such as std::unique_lock, with such a place before it is taken.
template <class Lock>
class Yielding : public Lock {
 public:
  template <class Mutex>
  explicit Yielding(Mutex& mutex) : Lock((MaybeYield(), mutex)) {}
};

}  // namespace recis
