// Environments for tests: one that fails or kills at a call, one that remembers every call and
// builds the states of the disk that a power failure may leave.
//
// Threads: any, as Env.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/env.h"

namespace recis::testing {

// Puts an Env in place of the system while it lives.
class ScopedEnv {
 public:
  explicit ScopedEnv(Env* env) { Env::Replace(env); }
  ~ScopedEnv() { Env::Replace(nullptr); }
  ScopedEnv(const ScopedEnv&) = delete;
};

inline iovec Half(const iovec* parts) { return {parts[0].iov_base, parts[0].iov_len / 2}; }

// Does something right before the next read, on a thread that holds none of the reader's locks.
class Interrupted : public Env {
 public:
  explicit Interrupted(std::function<void()> what) : what_(std::move(what)) {}
  ssize_t Preadv(int fd, const iovec* parts, int count, off_t offset) override {
    if (const auto what = std::exchange(what_, nullptr)) std::thread(what).join();
    return Env::Preadv(fd, parts, count, offset);
  }

 private:
  std::function<void()> what_;
};

// Counts the calls that change files, or make changes durable; the `at`th (from 1) goes wrong.
class FaultEnv : public Env {
 public:
  static constexpr int kKill = -1;         // the process ends before the call
  static constexpr int kKillHalfway = -2;  // and a write has been done in part
  static constexpr int kShort = -3;        // a write is done in part
  static constexpr int kExitStatus = 77;   // of a process that was killed

  // `fault` is one of the above or the errno of the call that fails.
  FaultEnv(int64_t at, int fault) : at_(at), fault_(fault) {}
  int64_t calls() const { return calls_.load(); }
  bool happened() const { return calls() >= at_; }

  int Open(const char* path, int flags, mode_t mode) override {
    if ((flags & O_CREAT) != 0 && Fails()) return -1;
    return Env::Open(path, flags, mode);
  }
  ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset) override {
    if (calls_.load() + 1 == at_ && (fault_ == kShort || fault_ == kKillHalfway)) {
      ++calls_;
      const iovec half = Half(parts);
      const ssize_t written = Env::Pwritev(fd, &half, 1, offset);
      if (fault_ == kKillHalfway) _exit(kExitStatus);
      return written;
    }
    return Fails() ? -1 : Env::Pwritev(fd, parts, count, offset);
  }
  int Fsync(int fd) override { return Fails() ? -1 : Env::Fsync(fd); }
  int Fdatasync(int fd) override { return Fails() ? -1 : Env::Fdatasync(fd); }
  int Ftruncate(int fd, off_t bytes) override { return Fails() ? -1 : Env::Ftruncate(fd, bytes); }
  int Rename(const char* from, const char* to) override {
    return Fails() ? -1 : Env::Rename(from, to);
  }
  int Unlink(const char* path) override { return Fails() ? -1 : Env::Unlink(path); }
  int Mkdir(const char* path, mode_t mode) override {
    return Fails() ? -1 : Env::Mkdir(path, mode);
  }

 private:
  bool Fails() {
    if (++calls_ != at_ || fault_ == kShort) return false;
    if (fault_ < 0) _exit(kExitStatus);
    errno = fault_;
    return true;
  }

  const int64_t at_;
  const int fault_;
  std::atomic<int64_t> calls_{0};
};

// Remembers every change below a directory, in order.
class RecordingEnv : public Env {
 public:
  struct Event {
    enum Kind { kCreate, kMkdir, kRename, kUnlink, kWrite, kTruncate, kSync, kNote } kind;
    int file = 0;  // a number for what the name stands for; of kSync, may be a directory's
    std::string path, to;
    off_t offset = 0;  // of kTruncate, the size; of kNote, the note
    std::string data;
    bool durable = false;  // written through a descriptor that syncs
  };

  explicit RecordingEnv(std::string root) : root_(std::move(root)) { files_[root_] = 0; }

  // Puts a mark among the events, such as the number of a commit that was acknowledged.
  void Note(int64_t note) {
    std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back({Event::kNote, 0, "", "", note, "", false});
  }
  // REQUIRES: nobody does I/O any more.
  const std::vector<Event>& events() const { return events_; }
  const std::string& root() const { return root_; }

  int Open(const char* path, int flags, mode_t mode) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const int fd = Env::Open(path, flags, mode);
    if (fd < 0 || !std::string(path).starts_with(root_)) return fd;
    const auto [it, fresh] = files_.insert({path, next_});
    if (fresh) events_.push_back({Event::kCreate, next_++, path, "", 0, "", false});
    descriptors_[fd] = {it->second, (flags & O_DSYNC) != 0};
    return fd;
  }
  int Close(int fd) override {
    std::lock_guard<std::mutex> lock(mutex_);
    descriptors_.erase(fd);
    return Env::Close(fd);
  }
  ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const ssize_t written = Env::Pwritev(fd, parts, count, offset);
    const auto it = descriptors_.find(fd);
    if (written < 0 || it == descriptors_.end()) return written;
    std::string data;
    for (int i = 0; i < count; ++i) {
      data.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
    }
    data.resize(static_cast<size_t>(written));
    events_.push_back(
        {Event::kWrite, it->second.file, "", "", offset, std::move(data), it->second.durable});
    return written;
  }
  int Fsync(int fd) override { return Sync(fd, Env::Fsync(fd)); }
  int Fdatasync(int fd) override { return Sync(fd, Env::Fdatasync(fd)); }
  int Ftruncate(int fd, off_t bytes) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const int result = Env::Ftruncate(fd, bytes);
    const auto it = descriptors_.find(fd);
    if (result == 0 && it != descriptors_.end()) {
      events_.push_back({Event::kTruncate, it->second.file, "", "", bytes, "", false});
    }
    return result;
  }
  int Rename(const char* from, const char* to) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const int result = Env::Rename(from, to);
    if (result == 0 && files_.contains(from)) {
      events_.push_back({Event::kRename, files_[from], from, to, 0, "", false});
      files_[to] = files_[from];
      files_.erase(from);
    }
    return result;
  }
  int Unlink(const char* path) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const int result = Env::Unlink(path);
    if (result == 0 && files_.contains(path)) {
      events_.push_back({Event::kUnlink, files_[path], path, "", 0, "", false});
      files_.erase(path);
    }
    return result;
  }
  int Mkdir(const char* path, mode_t mode) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const int result = Env::Mkdir(path, mode);
    if (result == 0 && std::string(path).starts_with(root_)) {
      files_[path] = next_;
      events_.push_back({Event::kMkdir, next_++, path, "", 0, "", false});
    }
    return result;
  }

 private:
  struct Descriptor {
    int file;
    bool durable;
  };

  int Sync(int fd, int result) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto it = descriptors_.find(fd);
    if (result == 0 && it != descriptors_.end()) {
      events_.push_back({Event::kSync, it->second.file, "", "", 0, "", false});
    }
    return result;
  }

  const std::string root_;
  std::mutex mutex_;
  std::map<std::string, int> files_;  // GUARDED_BY(mutex_), as is what follows
  std::map<int, Descriptor> descriptors_;
  std::vector<Event> events_;
  int next_ = 1;
};

// How the disk may look after power fails behind the first `count` events.
//
// Strict: POSIX promises no more than the syncs. Of what was not synced, any 512-byte piece of a
// write, any truncation and any name may be there or not. Ordered: all is there but the last
// call, which may be done in part.
class CrashState {
 public:
  CrashState(const RecordingEnv& env, size_t count, bool strict, std::mt19937_64& random)
      : root_(env.root()) {
    using Event = RecordingEnv::Event;
    const std::vector<Event>& events = env.events();
    const std::set<std::pair<size_t, size_t>> synced = Synced(events, count);
    // One chance for all pieces of a state: nothing, about half, or everything survives.
    const double chance = strict ? std::vector<double>{0, 0.5, 0.9, 1}[random() % 4] : 1;
    std::bernoulli_distribution lucky(chance);
    for (size_t i = 0; i < count; ++i) {
      const Event& event = events[i];
      const bool last = !strict && i + 1 == count;
      const size_t pieces = PiecesOf(event);
      const size_t torn = last && pieces > 0 ? random() % (pieces + 1) : pieces;
      for (size_t piece = 0; piece < torn; ++piece) {
        if (synced.contains({i, piece}) || lucky(random)) Apply(event, piece);
      }
    }
  }

  // Makes the state below `path`, an empty directory.
  void Write(const std::string& path) const {
    for (const std::string& directory : directories_) {  // parents come first
      if (Reachable(directory)) std::filesystem::create_directory(path + directory);
    }
    for (const auto& [name, file] : names_) {
      if (!Reachable(name)) continue;
      const auto content = contents_.find(file);
      std::ofstream out(path + name, std::ios::binary);
      if (content != contents_.end()) out << content->second;
    }
  }

 private:
  using Event = RecordingEnv::Event;
  static constexpr size_t kPieceBytes = 512;

  static size_t PiecesOf(const Event& event) {
    if (event.kind == Event::kSync || event.kind == Event::kNote) return 0;
    if (event.kind != Event::kWrite) return 1;
    const size_t first = static_cast<size_t>(event.offset) / kPieceBytes;
    const size_t end = static_cast<size_t>(event.offset) + event.data.size();
    return (end + kPieceBytes - 1) / kPieceBytes - first;
  }

  static std::string Parent(const std::string& path) { return path.substr(0, path.rfind('/')); }

  // (event, piece) of all that a later sync made durable.
  std::set<std::pair<size_t, size_t>> Synced(const std::vector<Event>& events, size_t count) const {
    std::set<std::pair<size_t, size_t>> synced;
    std::map<int, std::vector<size_t>> pending;  // by the file whose sync they wait for
    std::map<std::string, int> directories{{root_, 0}};
    for (size_t i = 0; i < count; ++i) {
      const Event& event = events[i];
      if (event.kind == Event::kMkdir) directories[event.path] = event.file;
      if (event.kind == Event::kWrite || event.kind == Event::kTruncate) {
        pending[event.file].push_back(i);
      } else if (event.kind == Event::kSync) {
        for (const size_t earlier : std::exchange(pending[event.file], {})) {
          for (size_t p = 0; p < PiecesOf(events[earlier]); ++p) synced.insert({earlier, p});
        }
      } else if (event.kind != Event::kNote) {
        pending[directories[Parent(event.path)]].push_back(i);
      }
      if (event.durable) {
        for (size_t p = 0; p < PiecesOf(event); ++p) synced.insert({i, p});
      }
    }
    return synced;
  }

  void Apply(const Event& event, size_t piece) {
    std::string& content = contents_[event.file];
    const std::string name = event.path.substr(std::min(root_.size(), event.path.size()));
    switch (event.kind) {
      case Event::kCreate:
        names_[name] = event.file;
        break;
      case Event::kMkdir:
        directories_.insert(name);
        break;
      case Event::kRename:
        names_.erase(name);
        names_[event.to.substr(root_.size())] = event.file;
        break;
      case Event::kUnlink:
        names_.erase(name);
        break;
      case Event::kTruncate:
        content.resize(static_cast<size_t>(event.offset));
        break;
      case Event::kWrite: {
        const auto offset = static_cast<size_t>(event.offset);
        const size_t first = (offset / kPieceBytes + piece) * kPieceBytes;
        const size_t begin = std::max(first, offset);
        const size_t end = std::min(first + kPieceBytes, offset + event.data.size());
        if (content.size() < end) content.resize(end);
        content.replace(begin, end - begin, event.data, begin - offset, end - begin);
        break;
      }
      case Event::kSync:
      case Event::kNote:
        break;
    }
  }

  bool Reachable(const std::string& name) const {
    const std::string parent = Parent(name);
    return parent.empty() || (directories_.contains(parent) && Reachable(parent));
  }

  const std::string root_;
  std::set<std::string> directories_;  // names below the root, as are these
  std::map<std::string, int> names_;
  std::map<int, std::string> contents_;
};

}  // namespace recis::testing
