// The queue of blocks on their way to the file, and the thread that writes them.
//
// Threads: any method from any thread; one background thread writes.
// Invariants:
//  (1) A block leaves the queue when it is durable, or was discarded.
//  (2) After a failure the thread waits for the next Ready() that finds the queue full, or
//      Drain(), before it tries again.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/status.h"
#include "cold/block.h"
#include "cold/database.h"

namespace recis {

// The value of a block in the database `ids`: header, ids, rows.
struct IdsHeader {
  uint32_t table;
  uint32_t rows;
  uint64_t checksum;  // xxh3 of what follows
};
static_assert(sizeof(IdsHeader) == 16);

// What is to be removed from the file when there is an occasion.
struct Garbage {
  Db db;  // kBlocks stands for all that is kept of a block
  std::string key;
};
Status Remove(const Garbage& garbage, Transaction& transaction);

class BlockWriter {
 public:
  BlockWriter(Database* database, Sequence next, size_t transaction_bytes, size_t queue_bytes);
  ~BlockWriter();  // leaves what is queued

  Sequence NextSequence();
  Sequence EndSequence() const;
  void Append(std::shared_ptr<Block> block, size_t queue_bytes);
  Status Ready();
  Sequence durable() const;
  Status Drain();
  void Discard(Sequence sequence);
  // Removes these in transactions to come. Drain() waits for them too.
  void Collect(std::vector<Garbage> garbage);

  int64_t queued_bytes() const;
  int64_t bytes_written() const;

 private:
  void Run();
  bool Due() const;  // REQUIRES: mutex_
  Status WriteSome(const std::vector<std::shared_ptr<Block>>& blocks,
                   const std::vector<Garbage>& garbage);
  // Has the thread write all of the queue, and waits until `done` or a failure.
  template <class Done>
  Status Flush(std::unique_lock<std::mutex>& lock, Done done);

  Database* const database_;
  const size_t transaction_bytes_, queue_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable work_, progress_;
  std::deque<std::shared_ptr<Block>> queue_;  // GUARDED_BY(mutex_), as is what follows
  std::vector<Garbage> garbage_;
  size_t being_written_ = 0;  // blocks at the front of the queue, garbage at the front of its
  size_t being_removed_ = 0;
  size_t queued_bytes_ = 0;
  size_t written_bytes_ = 0;
  Sequence next_, appended_, durable_;  // sequences below are given out, appended, durable
  int flushing_ = 0;                    // callers in Flush()
  bool closing_ = false;
  Status failure_;
  std::thread thread_;
};

}  // namespace recis
