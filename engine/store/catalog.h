// The cold blocks of a store: which entries of each are live, and which blocks can go.
//
// An entry is live while it is the valid copy of its row, whether the row is cold or hot and
// unchanged since. Blocks have a number here, small and reused, by which rows refer to them.
//
// Threads: const methods from any while no other runs; the rest by one thread at a time.
// Invariants:
//  (1) A block is dead when it is closed and has no live entry. A dead block that no epoch
//      knows is given up at once, any other one when both retained epochs know it as dead.
//  (2) changed_ has every closed block whose liveness differs from the last Collect().
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/row.h"
#include "cold/block.h"
#include "cold/log.h"
#include "store/location.h"

namespace recis {

class Catalog {
 public:
  struct Entry {
    Sequence sequence = 0;  // 0: still being filled
    uint32_t table = 0;
    uint32_t rows = 0;  // entries so far
    uint32_t live_rows = 0;
    uint32_t record_bytes = 0;
    size_t value_bytes = 0;
    mutable uint64_t offset = 0;  // in the file, once it was read; see ReadRequest
    bool in_use = false;
    bool changed = false;
    std::string live;              // bit by position
    std::shared_ptr<Block> block;  // in memory: being filled, or not durable yet
  };

  // A block to be filled.
  BlockNumber Open(uint32_t table, size_t record_bytes);
  // Appends a live entry to it.
  Location Add(BlockNumber number, int64_t id, Row row, const std::byte* record);
  // Nothing more goes into it. REQUIRES: it has a live entry.
  void Close(BlockNumber number, Sequence sequence);
  // Gives up a block that was being filled. REQUIRES: it has no live entry.
  void Abandon(BlockNumber number) { Forget(number); }
  // Takes in a block of the log as of the opened epoch.
  BlockNumber Recover(const BlockLiveness& liveness);

  // The entry is no longer the valid copy of its row.
  void Kill(Location location);
  bool Live(BlockNumber number, uint32_t position) const;
  const Entry& at(BlockNumber number) const { return entries_[number]; }
  BlockNumber end() const { return static_cast<BlockNumber>(entries_.size()); }

  // Lets go of the memory of blocks below this sequence.
  void Durable(Sequence end);
  // Sequences of dead blocks that no epoch knows; they are forgotten here.
  std::vector<Sequence> TakeDiscards();

  // Adds what changed since the last call to `changes`: for the commit of an epoch whose
  // blocks are those closed so far.
  void Collect(Changes* changes);
  // The commit collected last is durable: its dead blocks are forgotten.
  void Committed();

  // The blocks with the smallest share of live entries, until going without them would
  // leave at most `ratio` times the live bytes. Empty if that is so already.
  // Durable ones only; blocks of tables for which `skip` holds are left alone.
  std::vector<BlockNumber> ToClean(double ratio, int64_t slack_bytes,
                                   const std::function<bool(uint32_t)>& skip) const;
  // Whether blocks take more than `ratio` times the live bytes.
  bool Wasteful(double ratio, int64_t slack_bytes) const {
    return static_cast<double>(block_bytes_) >
           ratio * static_cast<double>(live_bytes_) + static_cast<double>(slack_bytes);
  }

  int64_t live_rows() const { return live_rows_; }
  int64_t live_bytes() const { return live_bytes_; }    // of live entries
  int64_t block_bytes() const { return block_bytes_; }  // of blocks with a live entry
  int64_t dead_bytes() const { return dead_bytes_; }    // of blocks kept for an epoch alone
  int64_t blocks() const;

 private:
  BlockNumber NewNumber();
  void Forget(BlockNumber number);
  void Change(BlockNumber number);
  void Dead(BlockNumber number);

  std::vector<Entry> entries_;
  std::vector<BlockNumber> unused_;
  std::vector<BlockNumber> changed_;
  std::deque<std::pair<BlockNumber, Sequence>> queued_;  // closed, in memory, ascending
  std::vector<Sequence> discards_;
  // Dead blocks on their way out: not yet collected, collected by a commit that is not durable
  // yet, known as dead by the last epoch.
  std::vector<BlockNumber> dead_new_, dead_collected_, dead_in_last_;
  Sequence known_end_ = 1;  // an epoch may know blocks below this
  int64_t live_rows_ = 0, live_bytes_ = 0, block_bytes_ = 0, dead_bytes_ = 0;
};

}  // namespace recis
