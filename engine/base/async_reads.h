// Many reads of one file on their way at once, past the system's cache.
//
// The kernel's own asynchronous I/O: one thread keeps a disk as busy as 32 threads that wait,
// at a third of their processor time. The file must be open with O_DIRECT.
//
// Threads: owned by one at a time.
#pragma once

#include <linux/aio_abi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"

namespace recis {

class AsyncReads {
 public:
  static constexpr size_t kAlignment = 4096;  // of offsets, lengths and memory

  // Room for `depth` reads of up to `bytes` each. Nothing if the system has no such reads.
  static std::unique_ptr<AsyncReads> Make(int fd, int depth, size_t bytes);
  ~AsyncReads();  // waits for what is on its way

  AsyncReads(const AsyncReads&) = delete;
  AsyncReads& operator=(const AsyncReads&) = delete;

  bool full() const { return free_.empty(); }
  bool empty() const { return free_.size() == reads_.size(); }
  size_t bytes() const { return bytes_; }

  // Queues a read under a tag. REQUIRES: !full(); offset and length are aligned.
  void Add(uint64_t tag, uint64_t offset, size_t length);
  struct Done {
    uint64_t tag;
    int64_t result;         // bytes read, or minus errno
    const std::byte* data;  // until Add() is called
  };
  // Starts what was queued and waits for at least one read. REQUIRES: !empty(). Minus errno in
  // every result if the system would not take them.
  const std::vector<Done>& Wait();

 private:
  AsyncReads(int fd, int depth, size_t bytes);
  void Collect(const io_event& event);

  const int fd_;
  const size_t bytes_;
  aio_context_t context_ = 0;
  std::byte* memory_ = nullptr;
  std::vector<iocb> reads_;
  std::vector<iocb*> queued_;
  std::vector<size_t> free_;  // places in reads_
  std::vector<io_event> events_;
  std::vector<Done> done_;
  int64_t on_their_way_ = 0;
};

}  // namespace recis
