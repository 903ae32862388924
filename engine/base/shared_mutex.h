// A shared mutex at which readers that come one after another do not keep a writer out.
//
// Whoever has come to write lets no further reader in. (std::shared_mutex may let readers pass
// it: two threads that save a table would then stall its training.)
//
// Threads: any. A thread that holds it must not ask for it again, in neither form.
#pragma once

#include <mutex>
#include <shared_mutex>

namespace recis {

class SharedMutex {
 public:
  void lock() {
    const std::lock_guard<std::mutex> entering(entrance_);
    mutex_.lock();
  }
  void unlock() { mutex_.unlock(); }
  void lock_shared() {
    const std::lock_guard<std::mutex> entering(entrance_);
    mutex_.lock_shared();
  }
  void unlock_shared() { mutex_.unlock_shared(); }

 private:
  std::mutex entrance_;  // held while waiting for the others to leave
  std::shared_mutex mutex_;
};

}  // namespace recis
