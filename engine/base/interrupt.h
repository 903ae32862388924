// Ctrl-C for those who wait in the engine.
//
// Threads: any.
#pragma once

#include <atomic>

namespace recis {

// Thrown where a caller who waits is to go home. Only before anything has changed.
struct Interrupted {};

// Whether the caller's thread is to stop waiting; bind/ knows. Null: never.
inline std::atomic<bool (*)()> interrupt_check{nullptr};

inline void ThrowIfInterrupted() {
  const auto check = interrupt_check.load();
  if (check != nullptr && check()) throw Interrupted();
}

}  // namespace recis
