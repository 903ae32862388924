#include "base/async_reads.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <new>

namespace recis {

AsyncReads::AsyncReads(int fd, int depth, size_t bytes)
    : fd_(fd),
      bytes_((bytes + kAlignment - 1) / kAlignment * kAlignment),
      memory_(static_cast<std::byte*>(
          ::operator new(static_cast<size_t>(depth) * bytes_, std::align_val_t{kAlignment}))),
      reads_(static_cast<size_t>(depth)),
      events_(static_cast<size_t>(depth)) {
  for (size_t place = reads_.size(); place > 0; --place) free_.push_back(place - 1);
}

std::unique_ptr<AsyncReads> AsyncReads::Make(int fd, int depth, size_t bytes) {
  std::unique_ptr<AsyncReads> reads(new AsyncReads(fd, depth, bytes));
  if (syscall(SYS_io_setup, depth, &reads->context_) != 0) return nullptr;
  return reads;
}

AsyncReads::~AsyncReads() {
  // Returns when nothing is on its way into the memory any more.
  if (context_ != 0) syscall(SYS_io_destroy, context_);
  ::operator delete(memory_, std::align_val_t{kAlignment});
}

void AsyncReads::Add(uint64_t tag, uint64_t offset, size_t length) {
  const size_t place = free_.back();
  free_.pop_back();
  iocb& read = reads_[place];
  read = {};
  read.aio_data = tag;
  read.aio_lio_opcode = IOCB_CMD_PREAD;
  read.aio_fildes = static_cast<uint32_t>(fd_);
  read.aio_buf = reinterpret_cast<uint64_t>(memory_ + place * bytes_);
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
