// Reads entries of blocks from the file, many on their way at a time.
//
// Not through LMDB's map: there a disk error is a signal, and every page costs a fault. What the
// system's cache has is taken from there; the rest is read past it, since the hot tier is the
// cache of what is used again. Entries of the same or the next page come in one read.
//
// Threads: any method from any thread, beside any writer.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/async_reads.h"
#include "base/status.h"
#include "cold/database.h"
#include "cold/log.h"

namespace recis {

class BlockReader {
 public:
  static Result<std::unique_ptr<BlockReader>> Open(const Database* database);
  ~BlockReader();

  Status Read(const ReadRequest* requests, int64_t n);
  Status ReadBlock(const BlockLiveness& block, std::vector<std::byte>* value);

  int64_t reads() const { return reads_.load(std::memory_order_relaxed); }
  int64_t direct_reads() const { return direct_reads_.load(std::memory_order_relaxed); }
  int64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  struct Entry;  // of the file, wanted by a request

  BlockReader(const Database* database, int fd, int direct_fd)
      : database_(database), fd_(fd), direct_fd_(direct_fd) {}
  // On failure `sequence` is that of the block.
  Status ReadSorted(const ReadRequest* requests, int64_t n, Sequence* sequence);
  Status Place(const View& view, std::vector<Entry>* entries, Sequence* sequence) const;
  Status ReadDirectly(const View& view, AsyncReads& reads, std::vector<Entry>* entries,
                      Sequence* sequence);
  // Takes an entry from what was read, of which so many bytes are there from its first on.
  Status Take(const Entry& entry, const std::byte* data, int64_t bytes);
  Status ReadAhead(const std::vector<Entry>& entries, Sequence* sequence);
  bool ReadCached(const Entry& entry);
  Status ReadEntry(const Entry& entry);
  void Count(int64_t bytes);
  Status ReadValue(const BlockLiveness& block, std::vector<std::byte>* value);
  Status ReadBytes(const iovec* parts, int count, uint64_t offset, const std::string& what);
  // Adds file, table and block to what went wrong, and what to do.
  Status Name(const Status& failure, Sequence sequence) const;

  const Database* const database_;
  const int fd_;
  const int direct_fd_;  // -1 where the file system has no O_DIRECT
  std::atomic<int64_t> reads_{0}, direct_reads_{0}, bytes_read_{0};
};

}  // namespace recis
