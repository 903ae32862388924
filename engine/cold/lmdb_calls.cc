#include "cold/lmdb_calls.h"

#include "base/env.h"
#include "cold/sync_failures.h"

namespace recis {
namespace {

thread_local uint64_t sync_failures = 0;

int CountSync(int result) {
  sync_failures += result != 0;
  return result;
}

}  // namespace

uint64_t SyncFailures() { return sync_failures; }

}  // namespace recis

using recis::Env;

int recis_lmdb_open(const char* path, int flags, mode_t mode) {
  return Env::Get().Open(path, flags, mode);
}

ssize_t recis_lmdb_pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  const iovec part{const_cast<void*>(data), bytes};
  const ssize_t written = Env::Get().Pwritev(fd, &part, 1, offset);
  // LMDB writes its meta page through a descriptor that syncs.
  if (written != static_cast<ssize_t>(bytes) && (fcntl(fd, F_GETFL) & O_DSYNC) != 0)
    recis::CountSync(-1);
  return written;
}

// LMDB seeks before each of these, and never relies on the position afterwards.
ssize_t recis_lmdb_writev(int fd, const iovec* parts, int count) {
  return Env::Get().Pwritev(fd, parts, count, lseek(fd, 0, SEEK_CUR));
}

int recis_lmdb_fsync(int fd) { return recis::CountSync(Env::Get().Fsync(fd)); }
int recis_lmdb_fdatasync(int fd) { return recis::CountSync(Env::Get().Fdatasync(fd)); }
int recis_lmdb_ftruncate(int fd, off_t bytes) { return Env::Get().Ftruncate(fd, bytes); }
