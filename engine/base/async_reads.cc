#include "base/async_reads.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <new>
#include <utility>

#include "base/fork.h"

namespace recis {

namespace {

// Leaked on purpose: threads may read until the process ends.
struct IdleReads {
  std::mutex mutex;
  std::vector<std::unique_ptr<AsyncReads>> reads;  // GUARDED_BY(mutex)
  uint64_t fork_generation = ForkGeneration();
};
IdleReads& Idle() {
  static std::atomic<IdleReads*> idle{new IdleReads};
  IdleReads* found = idle.load();
  if (found->fork_generation != ForkGeneration()) {
    // The parent's: useless here, and perhaps locked for good.
    idle.compare_exchange_strong(found, new IdleReads);
  }
  return *idle.load();
}

}  // namespace

AsyncReads::AsyncReads()
    : fork_generation_(ForkGeneration()),
      memory_(
          static_cast<std::byte*>(::operator new(kDepth* kMaxBytes, std::align_val_t{kAlignment}))),
      reads_(kDepth),
      events_(kDepth) {
  for (size_t place = kDepth; place > 0; --place) free_.push_back(place - 1);
}

std::unique_ptr<AsyncReads> AsyncReads::Take() {
  {
    IdleReads& idle = Idle();
    const std::lock_guard<std::mutex> lock(idle.mutex);
    if (!idle.reads.empty()) {
      std::unique_ptr<AsyncReads> reads = std::move(idle.reads.back());
      idle.reads.pop_back();
      return reads;
    }
  }
  std::unique_ptr<AsyncReads> reads(new AsyncReads);
  if (syscall(SYS_io_setup, static_cast<unsigned>(kDepth), &reads->context_) != 0) return nullptr;
  return reads;
}

void AsyncReads::GiveBack(std::unique_ptr<AsyncReads> reads) {
  IdleReads& idle = Idle();
  const std::lock_guard<std::mutex> lock(idle.mutex);
  if (reads->fork_generation_ == idle.fork_generation) idle.reads.push_back(std::move(reads));
}

AsyncReads::~AsyncReads() {
  // Returns when nothing is on its way into the memory any more.
  if (context_ != 0 && fork_generation_ == ForkGeneration()) syscall(SYS_io_destroy, context_);
  ::operator delete(memory_, std::align_val_t{kAlignment});
}

void AsyncReads::Add(uint64_t tag, int fd, uint64_t offset, size_t length) {
  const size_t place = free_.back();
  free_.pop_back();
  iocb& read = reads_[place];
  read = {};
  read.aio_data = tag;
  read.aio_lio_opcode = IOCB_CMD_PREAD;
  read.aio_fildes = static_cast<uint32_t>(fd);
  read.aio_buf = reinterpret_cast<uint64_t>(memory_ + place * kMaxBytes);
  read.aio_nbytes = length;
  read.aio_offset = static_cast<int64_t>(offset);
  queued_.push_back(&read);
}

void AsyncReads::Collect(const io_event& event) {
  const auto* read = reinterpret_cast<const iocb*>(event.obj);
  done_.push_back({event.data, event.res, reinterpret_cast<const std::byte*>(read->aio_buf)});
  free_.push_back(static_cast<size_t>(read - reads_.data()));
}

const std::vector<AsyncReads::Done>& AsyncReads::Wait() {
  done_.clear();
  size_t started = 0;
  while (started < queued_.size()) {
    const long taken = syscall(SYS_io_submit, context_, static_cast<long>(queued_.size() - started),
                               queued_.data() + started);
    if (taken > 0) {
      started += static_cast<size_t>(taken);
      on_their_way_ += taken;
    } else if (errno != EINTR) {
      // The first of those left was refused, for good.
      iocb* refused = queued_[started++];
      Collect({refused->aio_data, reinterpret_cast<uint64_t>(refused), -errno, 0});
    }
  }
  queued_.clear();
  while (done_.empty() && on_their_way_ > 0) {
    const long count = syscall(SYS_io_getevents, context_, 1L, static_cast<long>(events_.size()),
                               events_.data(), nullptr);
    if (count < 0 && errno != EINTR) RECIS_CHECK(errno == 0);  // the arguments are ours
    for (long i = 0; i < count; ++i) Collect(events_[static_cast<size_t>(i)]);
    on_their_way_ -= count > 0 ? count : 0;
  }
  return done_;
}

}  // namespace recis
