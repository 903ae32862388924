// Sees every call that changes what is below a directory, or makes it durable; counts them, has one
// go wrong, and can remember them all. Preloaded into the process under test, which arms it.
//
// Threads: any. One call at a time, so that the log has the order in which they happened.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { kPath = 4096 };

// What goes wrong at the chosen call; otherwise an errno. kHalfway and kShort count writes alone,
// and ENOSPC what may need room: from then on, as the disk stays full.
enum { kNothing = 0, kKill = -1, kHalfway = -2, kShort = -3 };

// What a call does, as the log has it.
enum {
  kCreate = 'c',
  kTruncate = 't',
  kWrite = 'w',
  kSync = 's',
  kMkdir = 'm',
  kRename = 'r',
  kUnlink = 'u',
  kRmdir = 'd',
  kNote = 'n',
};

// What the log has of each call; behind it, the path and what else there is.
struct Entry {
  int64_t kind, changed, offset, path_bytes, more_bytes;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[kPath];
static size_t root_bytes;  // 0: not armed
static long chosen, calls;
static int fault;
static int log_file = -1;

#define REAL(name)                                               \
  ({                                                             \
    static __typeof__(&name) real;                               \
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name); \
    real;                                                        \
  })

// Begins anew. `log`: a file to append to, or -1.
void shim_arm(const char* below, long at, int what, int log) {
  root_bytes = 0;
  snprintf(root, sizeof root, "%s", below);
  chosen = at;
  calls = 0;
  fault = what;
  log_file = log;
  root_bytes = strlen(root);
}

void shim_disarm(void) { root_bytes = 0; }

// Calls that could have gone wrong since it was armed.
long shim_calls(void) { return calls; }

static void put(const void* data, size_t bytes) {
  for (const char* at = data; bytes > 0;) {
    const ssize_t done = REAL(write)(log_file, at, bytes);
    if (done <= 0) _exit(3);
    at += done;
    bytes -= (size_t)done;
  }
}

static void record(int kind, int changed, const char* path, off_t offset, const void* more,
                   size_t more_bytes) {
  if (log_file < 0) return;
  const struct Entry entry = {kind, changed, offset, (int64_t)strlen(path), (int64_t)more_bytes};
  put(&entry, sizeof entry);
  put(path, strlen(path));
  put(more, more_bytes);
}

// Puts a mark into the log, such as that a save has returned.
void shim_note(long note) {
  pthread_mutex_lock(&mutex);
  record(kNote, 0, "", note, "", 0);
  pthread_mutex_unlock(&mutex);
}

static int below(const char* path) {
  return root_bytes > 0 && strncmp(path, root, root_bytes) == 0 &&
         (path[root_bytes] == '/' || path[root_bytes] == 0);
}

static int of_descriptor(int fd, char* path) {
  if (root_bytes == 0) return 0;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t bytes = readlink(link, path, kPath - 1);
  path[bytes < 0 ? 0 : bytes] = 0;
  return below(path);
}

static int of_name(int folder, const char* name, char* path) {
  if (root_bytes == 0) return 0;
  char base[kPath] = "";
  if (name[0] != '/') {
    if (folder == AT_FDCWD) {
      if (getcwd(base, sizeof base) == NULL) return 0;
    } else {
      (void)of_descriptor(folder, base);
    }
  }
  const int bytes = snprintf(path, kPath, "%s%s%s", base, base[0] ? "/" : "", name);
  return bytes < kPath && below(path);
}

// Whether the call is to go wrong; then errno is set, or the process has ended. `kind` halves:
// a write that is to be done in part.
static int goes_wrong(int kind) {
  if (fault == kHalfway || fault == kShort) return kind == kWrite && ++calls == chosen;
  if (fault == ENOSPC && (kind == kUnlink || kind == kRmdir || kind == kRename)) return 0;
  ++calls;
  if (fault == kNothing || (fault == ENOSPC ? calls < chosen : calls != chosen)) return 0;
  if (fault == kKill) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  errno = fault;
  return 1;
}

// A call that names what it changes: `act` is made and its result returned.
#define CHANGE(kind, folder, name, act, more, more_bytes) \
  char path[kPath];                                       \
  if (!of_name(folder, name, path)) return (act);         \
  pthread_mutex_lock(&mutex);                             \
  const int result = goes_wrong(kind) ? -1 : (act);       \
  const int error = errno;                                \
  record(kind, result == 0, path, 0, more, more_bytes);   \
  pthread_mutex_unlock(&mutex);                           \
  errno = error;                                          \
  return result;

int mkdirat(int folder, const char* name, mode_t mode) {
  CHANGE(kMkdir, folder, name, REAL(mkdirat)(folder, name, mode), "", 0)
}
int mkdir(const char* name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int unlinkat(int folder, const char* name, int flags) {
  const int kind = flags & AT_REMOVEDIR ? kRmdir : kUnlink;
  CHANGE(kind, folder, name, REAL(unlinkat)(folder, name, flags), "", 0)
}
int unlink(const char* name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char* name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int renameat(int from_folder, const char* from, int to_folder, const char* to) {
  char target[kPath] = "";
  (void)of_name(to_folder, to, target);
  CHANGE(kRename, from_folder, from, REAL(renameat)(from_folder, from, to_folder, to), target,
         strlen(target))
}
int rename(const char* from, const char* to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

static int open_any(int folder, const char* name, int flags, mode_t mode) {
  char path[kPath];
  if ((flags & (O_CREAT | O_TRUNC)) == 0 || !of_name(folder, name, path)) {
    return REAL(openat)(folder, name, flags, mode);
  }
  pthread_mutex_lock(&mutex);
  const int fresh = faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
  const int fd = goes_wrong(kCreate) ? -1 : REAL(openat)(folder, name, flags, mode);
  const int error = errno;
  const int changed = fd >= 0 && (fresh || (flags & O_TRUNC) != 0);
  record(fresh ? kCreate : kTruncate, changed, path, 0, "", 0);
  pthread_mutex_unlock(&mutex);
  errno = error;
  return fd;
}

#define OPEN(name, parameters, folder)                              \
  int name parameters {                                             \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                   \
    return open_any(folder, path, flags, mode);                     \
  }
OPEN(open, (const char* path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char* path, int flags, ...), AT_FDCWD)
OPEN(openat, (int folder, const char* path, int flags, ...), folder)
OPEN(openat64, (int folder, const char* path, int flags, ...), folder)

// At `offset`, or where the descriptor stands if that is -1. Of several parts only the first is
// written where it is watched, as a short write may do.
static ssize_t write_any(int fd, const struct iovec* parts, int count, off_t offset) {
  char path[kPath];
  const int seen = of_descriptor(fd, path);
  if (seen) count = 1;
  if (seen) pthread_mutex_lock(&mutex);
  const off_t begin = seen && offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset;
  struct iovec half = parts[0];
  if (half.iov_len > 1) half.iov_len /= 2;
  ssize_t done = -1;
  int kill_after = 0;
  if (seen && goes_wrong(kWrite)) {
    if (fault == kHalfway || fault == kShort) {
      parts = &half;
      kill_after = fault == kHalfway;
    } else {
      count = 0;
    }
  }
  if (count > 0) {
    done = offset < 0 ? REAL(writev)(fd, parts, count) : REAL(pwritev)(fd, parts, count, offset);
  }
  if (kill_after) kill(getpid(), SIGKILL);
  if (!seen) return done;
  const int error = errno;
  record(kWrite, done > 0, path, begin, parts[0].iov_base, done > 0 ? (size_t)done : 0);
  pthread_mutex_unlock(&mutex);
  errno = error;
  return done;
}

ssize_t write(int fd, const void* data, size_t bytes) {
  const struct iovec part = {(void*)data, bytes};
  return root_bytes == 0 ? REAL(write)(fd, data, bytes) : write_any(fd, &part, 1, -1);
}
ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  const struct iovec part = {(void*)data, bytes};
  return write_any(fd, &part, 1, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t offset) {
  return pwrite(fd, data, bytes, offset);
}
ssize_t writev(int fd, const struct iovec* parts, int count) {
  return write_any(fd, parts, count, -1);
}
ssize_t pwritev(int fd, const struct iovec* parts, int count, off_t offset) {
  return write_any(fd, parts, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec* parts, int count, off64_t offset) {
  return write_any(fd, parts, count, offset);
}

// A call on an open file.
#define CHANGE_OPEN(kind, fd, act, offset)          \
  char path[kPath];                                 \
  if (!of_descriptor(fd, path)) return (act);       \
  pthread_mutex_lock(&mutex);                       \
  const int result = goes_wrong(kind) ? -1 : (act); \
  const int error = errno;                          \
  record(kind, result == 0, path, offset, "", 0);   \
  pthread_mutex_unlock(&mutex);                     \
  errno = error;                                    \
  return result;

int fsync(int fd) { CHANGE_OPEN(kSync, fd, REAL(fsync)(fd), 0) }
int fdatasync(int fd) { CHANGE_OPEN(kSync, fd, REAL(fdatasync)(fd), 0) }
int ftruncate(int fd, off_t bytes) { CHANGE_OPEN(kTruncate, fd, REAL(ftruncate)(fd, bytes), bytes) }
int ftruncate64(int fd, off64_t bytes) { return ftruncate(fd, bytes); }
