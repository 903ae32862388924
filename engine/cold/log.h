// The log of one store: immutable cold blocks in LMDB, and the epochs that say which of
// their entries are live.
//
// Blocks are appended by one background thread in transactions of about 16 MiB. An epoch
// is committed by a last small transaction; until then nothing newer than the previous
// epoch counts, and recovery drops it. What changes from epoch to epoch (the liveness of a
// block, the tables' own values) is kept in the versions of the last two epochs.
//
// Threads: any method from any thread. Read() runs beside everything else.
// Invariants:
//  (1) A block is in the file whole or not at all, and blocks become durable in the order
//      of their sequences.
//  (2) After Commit() returned ok, a crash at any instant leaves that epoch and the one
//      before it recoverable, or a later one.
//  (3) A failed Ready(), Drain() or Commit() leaves the last epoch as it was; appended
//      blocks stay queued and the next call tries again. After a failed sync nothing is
//      written any more until the log is opened again.
//  (4) A child of fork() is refused by every method and may let the log be destroyed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "cold/block.h"

namespace recis {

struct LogOptions {
  std::string path;                     // a directory, made if it is not there
  bool scratch = false;                 // wiped at open, never synced, cannot be committed
  bool read_only = false;               // beside a writer, or on a read-only file system
  bool network = false;                 // open even on a network file system
  std::optional<uint64_t> epoch;        // which to recover; the last by default; 0, while there
                                        // is at most one: as it was before the first
  size_t transaction_bytes = 16 << 20;  // of blocks in one transaction
  size_t queue_bytes = 64 << 20;        // of blocks waiting, above which Append() waits
  size_t map_bytes = size_t{1} << 40;   // of address space; less or more as it turns out
};

struct Epoch {
  uint64_t epoch = 0;  // from 1
  int64_t step = 0;
  int64_t seconds = 0;  // since 1970
};

// One entry of a block, to be read.
struct ReadRequest {
  Sequence sequence;
  uint32_t position;
  int64_t id;  // what must be there, else the block is damaged
  Row row;
  size_t record_bytes;
  std::byte* record;  // (record_bytes)
  // Where the block lies in the file, if not 0; found and filled in otherwise. May be shared by
  // requests of several threads.
  uint64_t* block_offset = nullptr;
};

// The liveness of a block as of an epoch: bit `position` of `live`, least significant first.
struct BlockLiveness {
  Sequence sequence = 0;
  uint32_t table = 0;
  uint32_t rows = 0;
  size_t record_bytes = 0;
  std::string live;  // (ceil(rows / 8))
};

// What one commit changes, next to the blocks that were appended.
struct Changes {
  int64_t step = 0;
  std::string state;                    // of the user, whole
  std::vector<BlockLiveness> liveness;  // of blocks where it changed, and of new ones
  // Values by key; an empty one removes the key.
  std::vector<std::pair<std::string, std::string>> values;
  // Blocks that have no live entry in this epoch nor in the one before.
  std::vector<Sequence> dead;
};

struct LogStats {
  int64_t bytes_written = 0;  // blocks
  int64_t bytes_read = 0;     // entries
  int64_t reads = 0;          // of entries
  int64_t direct_reads = 0;   // of the disk, past the system's cache: each brings an entry or more
  int64_t transactions = 0;
  int64_t file_bytes = 0;    // of the data file
  int64_t free_bytes = 0;    // in it, for reuse
  int64_t queued_bytes = 0;  // appended and not yet durable
};

class Log {
 public:
  // Recovers: drops what is newer than the epoch that is opened.
  static Result<std::unique_ptr<Log>> Open(LogOptions options);
  // What was appended since the last commit belongs to no epoch and is let go of.
  ~Log();

  // ---- blocks -----------------------------------------------------------------------

  // A sequence for a new block, above all given out before. Blocks must be appended in this
  // order; a sequence may be left out.
  Sequence NextSequence();
  // The next sequence that will be given out.
  Sequence EndSequence() const;
  // Queues a closed block, waiting while more than this, of bytes, are queued and can be written.
  // The block is sealed when its turn comes.
  void Append(std::shared_ptr<Block> block, size_t queue_bytes);
  void Append(std::shared_ptr<Block> block) { Append(std::move(block), options_.queue_bytes); }
  // Whether more may be queued: an error (the disk is full, say) if too much is queued already
  // and cannot be written. Tries again.
  Status Ready();
  // All blocks below this are durable and their memory has been let go of.
  Sequence durable() const;
  // Returns when all appended blocks are durable and what is to be removed has been.
  Status Drain();
  // Removes a block that no epoch knows: one appended since the last commit. May be queued still.
  void Discard(Sequence sequence);

  // Reads entries of durable blocks, many at a time on the wire. All or, naming the block
  // and what was expected, an error.
  Status Read(const ReadRequest* requests, int64_t n) const;
  // The whole value of a block, checked entry by entry.
  Status ReadBlock(const BlockLiveness& block, std::vector<std::byte>* value) const;

  // ---- epochs -----------------------------------------------------------------------

  // Makes a new epoch of the last one and `changes`, whose blocks are below `end`.
  Result<Epoch> Commit(const Changes& changes, Sequence end);
  std::vector<Epoch> Epochs() const;  // the last one or two, older first
  std::optional<Epoch> Current() const;

  // As of the current epoch. `use` must not call the log.
  Status ForEachBlock(const std::function<void(const BlockLiveness&)>& use) const;
  // Ids and rows of a block: (rows) each.
  Status ReadIds(
      const std::vector<Sequence>& blocks,
      const std::function<void(Sequence, const int64_t*, const Row*, uint32_t)>& use) const;
  Status ForEachValue(const std::string& prefix,
                      const std::function<void(std::string_view, std::string_view)>& use) const;
  Result<std::string> State() const;

  LogStats Stats() const;

 private:
  struct Rooms;
  explicit Log(LogOptions options);
  // Whether this process, which may be a child of the one that opened the log, may use it.
  Status Usable() const;
  Status Writable() const;

  const LogOptions options_;
  const uint64_t fork_generation_;
  std::unique_ptr<Rooms> rooms_;
};

}  // namespace recis
