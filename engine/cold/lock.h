// The right to a store's directory: one process at a time, and once within it.
//
// Threads: Acquire() from any; the object is owned by one at a time.
// Invariants:
//  (1) The file LOCK names the process that holds or last held the lock.
//  (2) A forked child does not hold its parent's lock. It must not destroy this object.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>

#include "base/status.h"

namespace recis {

class DirectoryLock {
 public:
  // `shared` takes no part in the file's lock: readers beside a writer of another process.
  static Result<std::unique_ptr<DirectoryLock>> Acquire(const std::string& path, bool shared);
  ~DirectoryLock();

 private:
  using Identity = std::pair<dev_t, ino_t>;
  explicit DirectoryLock(Identity identity) : identity_(identity) {}

  Status LockFile(const std::string& path);

  Identity identity_;
  int fd_ = -1;
};

}  // namespace recis
