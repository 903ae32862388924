// All file I/O of the engine: the system calls it makes, replaceable by tests.
//
// The calls are as the manual pages have them: -1 and errno on failure, short reads and
// writes possible. LMDB's own calls come here too, see cold/lmdb_calls.h.
//
// Threads: any. Replace() only while no other thread does I/O.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <cstddef>
#include <string>

#include "base/status.h"

struct flock;

namespace recis {

class Env {
 public:
  virtual ~Env() = default;

  virtual int Open(const char* path, int flags, mode_t mode);
  virtual int Close(int fd);
  virtual ssize_t Preadv(int fd, const iovec* parts, int count, off_t offset);
  virtual ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset);
  virtual int Fsync(int fd);
  virtual int Fdatasync(int fd);
  virtual int Ftruncate(int fd, off_t bytes);
  virtual int Rename(const char* from, const char* to);
  virtual int Unlink(const char* path);
  virtual int Mkdir(const char* path, mode_t mode);
  virtual int Statfs(const char* path, struct statfs* use);
  virtual int Lock(int fd, int command, struct flock* lock);  // fcntl's

  static Env& Get();
  // Every later call goes to `env`, which outlives them; nullptr is the system again.
  static void Replace(Env* env);
  // Whether nothing was replaced. Then reads may also go other ways than Preadv(): from the
  // system's cache alone, or asynchronously.
  static bool IsSystem();
};

// A failed call on a path as a status: "<path>: cannot <what>: <why>." and what to do.
// A full disk is named as such, with the bytes that are left.
Status IoError(int error_number, const std::string& path, const std::string& what);

// Makes the names in a directory durable.
Status SyncDirectory(const std::string& path);

}  // namespace recis
