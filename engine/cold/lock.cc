#include "cold/lock.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>

#include "base/env.h"

namespace recis {
namespace {

// Directories open in this process. The system's locks do not keep a process from itself, and
// it would lose LMDB's by closing the same file twice.
// Leaked on purpose: a store may be closed after static objects are gone.
template <class Identity>
struct Opened {
  std::mutex mutex;
  std::set<Identity> identities;  // GUARDED_BY(mutex)

  static Opened& Get() {
    static Opened* opened = [] {
      pthread_atfork([] { Get().mutex.lock(); }, [] { Get().mutex.unlock(); },
                     [] {
                       Get().identities.clear();
                       Get().mutex.unlock();
                     });
      return new Opened;
    }();
    return *opened;
  }
};

std::string FirstLine(const char* path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

std::string Holder() {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return "pid " + std::to_string(getpid()) + "\nhost " + host + "\nboot " +
         FirstLine("/proc/sys/kernel/random/boot_id") + "\n";
}

struct flock WholeFile() {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

// "pid 12, host a, boot b" of what Holder() wrote.
std::string InOneLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, ", ");
  return text;
}

std::string ReadHolder(int fd) {
  char text[1024];
  const iovec part{text, sizeof(text)};
  const ssize_t bytes = Env::Get().Preadv(fd, &part, 1, 0);
  return InOneLine(std::string(text, bytes > 0 ? static_cast<size_t>(bytes) : 0));
}

}  // namespace

Result<std::unique_ptr<DirectoryLock>> DirectoryLock::Acquire(const std::string& path,
                                                              bool shared) {
  struct stat directory;
  if (stat(path.c_str(), &directory) != 0) return IoError(errno, path, "look up the directory");
  const Identity identity{directory.st_dev, directory.st_ino};
  {
    auto& opened = Opened<Identity>::Get();
    std::lock_guard<std::mutex> guard(opened.mutex);
    if (!opened.identities.insert(identity).second) {
      return Unavailable(path + ": this process (" + InOneLine(Holder()) +
                         ") has the store open already. Use that one, or close it first.");
    }
  }
  std::unique_ptr<DirectoryLock> lock(new DirectoryLock(identity));
  if (!shared) RECIS_RETURN_IF_ERROR(lock->LockFile(path));
  return lock;
}

Status DirectoryLock::LockFile(const std::string& path) {
  Env& env = Env::Get();
  fd_ = env.Open((path + "/LOCK").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) return IoError(errno, path, "open LOCK");
  struct flock lock = WholeFile();
  if (env.Lock(fd_, F_SETLK, &lock) != 0) {
    if (errno != EAGAIN && errno != EACCES) return IoError(errno, path, "lock LOCK");
    return Unavailable(path + ": another process (" + ReadHolder(fd_) +
                       ") has the store open. Close it there, or open it read-only here.");
  }
  const std::string holder = Holder();
  const iovec part{const_cast<char*>(holder.data()), holder.size()};
  errno = ENOSPC;
  if (env.Ftruncate(fd_, 0) != 0 ||
      env.Pwritev(fd_, &part, 1, 0) != static_cast<ssize_t>(holder.size())) {
    return IoError(errno, path, "write LOCK");
  }
  return {};
}

DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) Env::Get().Close(fd_);
  auto& opened = Opened<Identity>::Get();
  std::lock_guard<std::mutex> guard(opened.mutex);
  opened.identities.erase(identity_);
}

}  // namespace recis
