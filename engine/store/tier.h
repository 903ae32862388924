// Which tier holds the record of each row of one table, and the way between them.
//
// Hot records lie in frames of the arena. A hot record that has not changed since it was
// promoted or committed still has its cold copy and is dropped without a write; any other is
// packed into the table's open block when its frame is needed.
//
// Threads: Locate(), At() and the other const methods from any while no other runs; the rest
//   by one at a time, under the store's lock.
// Invariants:
//  (1) location of a row is Hot(f) iff row_of(f) is that row and the clock uses f.
//  (2) dirty(f), or copy(f) is a live entry with the same bytes.
//  (3) Every entry of the catalog that is live for this table is the location of its row or
//      the copy of its frame.
//  (4) The table has at least one hot block.
//  (5) While in_place_, the frame of every hot row is the row itself: nothing has been spilled,
//      and finding a record costs what it does in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "device/chunks.h"
#include "device/memory.h"
#include "hot/arena.h"
#include "store/clock.h"
#include "store/location.h"
#include "store/store.h"

namespace recis {

// The shape of a record: `record_bytes` when hot, the first `used_bytes` of it when cold. Records
// only ever grow at the end, and older ones are completed from `new_record`.
struct RecordLayout {
  size_t record_bytes = 0;
  size_t used_bytes = 0;
  std::vector<std::byte> new_record;  // (record_bytes)
};

// Records to be read, hot or cold.
struct Sources {
  Buffer pointers;  // const std::byte* (n): null where a row has no record
  Buffer copies;    // of those that are elsewhere
  const std::byte* const* data() const { return pointers.as<const std::byte*>(); }
};

// Reads of cold records while nothing is locked. A block may be gone by then, which is an error of
// reading it, and no other record is taken for the one that was meant.
struct ColdReads {
  std::vector<ReadRequest> requests;
  std::vector<uint64_t> offsets;  // by request as made: what is known of where its block lies
  Buffer records;                 // what the requests read
};

struct TierStats {
  int64_t hot_rows = 0;
  int64_t cold_rows = 0;
  int64_t hot_bytes = 0;  // of hot blocks, unused frames included
  int64_t promotes = 0;   // rows made hot
  int64_t spills = 0;     // rows made cold
  int64_t drops = 0;      // of them, those that needed no write
};

class Tier {
 public:
  // Fails if the budget has no room for one block more.
  static Result<std::unique_ptr<Tier>> Make(Store& store, uint32_t table, const StoreMember& member,
                                            RecordLayout layout, int64_t block_rows);

  std::byte* At(Row row) const { return arena_.At(FrameOf(row)); }  // REQUIRES: hot
  bool all_hot() const { return cold_rows_ == 0; }
  bool cold(Row row) const { return !all_hot() && locations_[row].cold(); }

  // Room for rows below `end`.
  Status Reserve(int64_t end) { return locations_.Reserve(end); }
  // The row, which has no record, is in the log.
  void Recover(Row row, Location cold);

  enum class Use { kRead, kChange, kNew };
  // Makes the first of `rows` hot and keeps them so until Release(); returns how many, at
  // least one. kChange: they will be written. kNew: they have no record yet, and what it holds
  // is undefined until it is written. kNoRow is skipped. `read`: what was read before, its requests
  // by row ascending; what is not true any more is read again.
  Result<int64_t> Hold(const Row* rows, int64_t n, Use use, const ColdReads& read = {});
  void Release();
  // These distinct rows were used.
  void Touch(const Row* rows, int64_t n);
  // Finds records to read; moves none.
  Status Locate(const Row* rows, int64_t n, Sources* sources) const;
  // The reads that Locate() or Hold() would make for these rows, in their order. kNoRow may stand
  // among them.
  ColdReads ReadsOf(const Row* rows, int64_t n) const;
  // The row has no record any more.
  void Free(Row row);
  void Clear();

  // Gives every record a valid cold copy in a closed block.
  void Flush();
  // Spills everything; then records have this layout.
  Status ChangeLayout(RecordLayout layout);
  // Lets go of hot blocks, of at least `bytes` if it has them to spare.
  void GiveUp(int64_t bytes);
  // Moves the live entries of a durable block elsewhere.
  Status Clean(BlockNumber number);
  Store& store() const { return store_; }

  int64_t hot_bytes() const { return static_cast<int64_t>(clock_.size() * layout_.record_bytes); }
  TierStats Stats() const;

 private:
  struct Miss {
    Row row;
    Location where;
    std::byte* record;
  };

  Tier(Store& store, uint32_t table, const StoreMember& member, RecordLayout layout,
       int64_t block_rows);

  Frame FrameOf(Row row) const { return in_place_ ? row : locations_[row].frame(); }
  int64_t BlockBytes() const;
  // Adds up to so many frames; returns whether it could add any.
  bool Grow(int64_t frames);
  // Adds frames for these rows that are not hot, so many of them.
  void GrowFor(const Row* rows, int64_t n, int64_t missing);
  // Frames are given to any row from now on.
  void LeavePlaces();
  Frame TakeFrame(Row row);
  void FreeFrame(Frame frame);
  void Spill(Frame frame);
  Location Pack(int64_t id, Row row, const std::byte* record);
  void AppendOpenBlock();
  void MarkDirty(const Row* rows, int64_t n);
  ReadRequest RequestFor(const Miss& miss) const;
  // The one that has read the entry where the row is; null if there is none.
  const ReadRequest* FindRead(const ColdReads& read, const Miss& miss) const;
  Status Fetch(const std::vector<Miss>& misses, const ColdReads& read = {}) const;

  Store& store_;
  const uint32_t table_;
  const StoreMember& member_;
  const int64_t block_rows_;
  RecordLayout layout_;
  Arena arena_;
  Chunks<Location> locations_;  // by row
  Clock clock_;                 // of frames
  Chunks<Row> row_of_;          // by frame in use
  Chunks<uint8_t> dirty_;       // by frame: the record has no cold copy; 0 if unused
  Chunks<Location> copy_;       // by frame: its cold copy; nowhere if unused
  bool in_place_ = true;
  int64_t used_frames_ = 0;
  std::vector<Frame> free_frames_;  // the next one at the back; empty while in_place_
  std::vector<Frame> held_;
  std::optional<BlockNumber> open_;  // the block that is being filled
  int64_t cold_rows_ = 0;
  int64_t promotes_ = 0, spills_ = 0, drops_ = 0;
};

}  // namespace recis
