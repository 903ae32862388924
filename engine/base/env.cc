#include "base/env.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace recis {
namespace {

std::atomic<Env*> replacement{nullptr};

}  // namespace

int Env::Open(const char* path, int flags, mode_t mode) { return open(path, flags, mode); }
int Env::Close(int fd) { return close(fd); }
ssize_t Env::Preadv(int fd, const iovec* parts, int count, off_t offset) {
  return preadv(fd, parts, count, offset);
}
ssize_t Env::Pwritev(int fd, const iovec* parts, int count, off_t offset) {
  return pwritev(fd, parts, count, offset);
}
int Env::Fsync(int fd) { return fsync(fd); }
int Env::Fdatasync(int fd) { return fdatasync(fd); }
int Env::Ftruncate(int fd, off_t bytes) { return ftruncate(fd, bytes); }
int Env::Rename(const char* from, const char* to) { return rename(from, to); }
int Env::Unlink(const char* path) { return unlink(path); }
int Env::Mkdir(const char* path, mode_t mode) { return mkdir(path, mode); }
int Env::Statfs(const char* path, struct statfs* use) { return statfs(path, use); }
int Env::Lock(int fd, int command, struct flock* lock) { return fcntl(fd, command, lock); }

Env& Env::Get() {
  static Env system;
  Env* replaced = replacement.load(std::memory_order_acquire);
  return replaced != nullptr ? *replaced : system;
}

bool Env::IsSystem() { return replacement.load(std::memory_order_acquire) == nullptr; }

void Env::Replace(Env* env) { replacement.store(env, std::memory_order_release); }

Status IoError(int error_number, const std::string& path, const std::string& what) {
  // LMDB reports a short write as EIO, and a short write is how a full tmpfs or quota shows.
  constexpr uint64_t kFewBytes = 1 << 20;
  struct statfs use{};
  const bool known = Env::Get().Statfs(path.c_str(), &use) == 0;
  const uint64_t free_bytes =
      known ? uint64_t{use.f_bavail} * static_cast<uint64_t>(use.f_bsize) : 0;
  if (error_number == EIO && known && free_bytes < kFewBytes) error_number = ENOSPC;

  std::string next;
  if (error_number == ENOSPC || error_number == EDQUOT) {
    if (known) next = std::to_string(free_bytes) + " bytes are free. ";
    next += "Free some space or raise the quota, then try again.";
  } else if (error_number == EROFS) {
    next = "Open it with read_only=True, or mount it writable.";
  } else if (error_number == EIO) {
    next = "The disk or its connection fails: see the system's log.";
  }
  return Io(error_number,
            path + ": cannot " + what + ": " + std::strerror(error_number) + ". " + next);
}

Status SyncDirectory(const std::string& path) {
  Env& env = Env::Get();
  const int fd = env.Open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) return IoError(errno, path, "open the directory");
  const int failed = env.Fsync(fd) == 0 ? 0 : errno;
  env.Close(fd);
  if (failed != 0) return IoError(failed, path, "make its names durable");
  return {};
}

}  // namespace recis
