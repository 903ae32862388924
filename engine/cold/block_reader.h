// Reads entries of blocks from the file, many on their way at a time.
//
// Not through LMDB's map: there a disk error is a signal, and every page costs a fault.
//
// Threads: any method from any thread, beside any writer.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

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
  int64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  struct Entry;  // of the file, wanted by a request

  BlockReader(const Database* database, int fd) : database_(database), fd_(fd) {}
  Status ReadSorted(const ReadRequest* requests, int64_t n, Sequence* sequence);
  Status ReadEntry(const ReadRequest& request, uint64_t offset);
  Status ReadValue(const BlockLiveness& block, std::vector<std::byte>* value);
  Status ReadBytes(const iovec* parts, int count, uint64_t offset, const std::string& what);
  // Adds file, table and block to what went wrong, and what to do.
  Status Name(const Status& failure, Sequence sequence) const;

  const Database* const database_;
  const int fd_;
  std::atomic<int64_t> reads_{0}, bytes_read_{0};
};

}  // namespace recis
