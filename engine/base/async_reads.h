// Many reads of files on their way at once, past the system's cache.
//
// The kernel's own asynchronous I/O: one thread keeps a disk as busy as 32 threads that wait,
// at a third of their processor time. Files must be open with O_DIRECT.
//
// Threads: Take() and GiveBack() from any; in between owned by one at a time.
// Invariants:
//  (1) A child of fork() takes none that its parent made: they are not there in its kernel.
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
  static constexpr size_t kDepth = 256;       // reads on their way
  static constexpr size_t kMaxBytes = 16 << 10;

  // Those that were given back are kept, since letting go of them takes the system
  // milliseconds. Null if the system has no such reads.
  static std::unique_ptr<AsyncReads> Take();
  // REQUIRES: empty().
  static void GiveBack(std::unique_ptr<AsyncReads> reads);
  ~AsyncReads();  // waits for what is on its way

  AsyncReads(const AsyncReads&) = delete;
  AsyncReads& operator=(const AsyncReads&) = delete;

  bool full() const { return free_.empty(); }
  bool empty() const { return free_.size() == reads_.size(); }

  // Queues a read under a tag. REQUIRES: !full(); offset and length are aligned, length <=
  // kMaxBytes.
  void Add(uint64_t tag, int fd, uint64_t offset, size_t length);
  struct Done {
    uint64_t tag;
    int64_t result;         // bytes read, or minus errno
    const std::byte* data;  // until Add() is called
  };
  // Starts what was queued and waits for at least one read. REQUIRES: !empty(). Minus errno in
  // every result if the system would not take them.
  const std::vector<Done>& Wait();

 private:
  AsyncReads();
  void Collect(const io_event& event);

  const uint64_t fork_generation_;
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
