// Which rows of a table have their record on a device too, and what is known of it there.
//
// A record on the device lies in a frame: a row of the DeviceTable that holds it. It is dirty once
// it was changed there, and the table's own is out of date from then on.
//
// Threads: FrameOf(), At() and the other const methods from any while no other runs; the rest by
//   one thread at a time.
// Invariants:
//  (1) FrameOf(At(frame).row) is the frame, for frames in use.
//  (2) There are never more than `capacity` rows.
#pragma once

#include <cstdint>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "device/chunks.h"
#include "store/clock.h"
#include "store/location.h"

namespace recis {

class CachedRows {
 public:
  static constexpr Frame kNoFrame = kNoRow;

  struct Entry {
    int64_t id = 0;
    Row row = kNoRow;  // of the table; kNoRow while the frame is unused
  };

  explicit CachedRows(int64_t capacity) : capacity_(capacity) {}

  Frame FrameOf(Row row) const {
    return row < known_rows_ ? frames_[row] - 1 : kNoFrame;  // 0, none, becomes kNoFrame
  }
  // The row of this id if the frame, or what once was one, holds it; else kNoRow.
  Row RowOf(Frame frame, int64_t id) const {
    return frame < entries_.size() && entries_[frame].id == id ? entries_[frame].row : kNoRow;
  }
  const Entry& At(Frame frame) const { return entries_[frame]; }
  bool dirty(Frame frame) const { return marks_[frame].dirty; }
  bool pending(Frame frame) const { return marks_[frame].pending; }  // has a pending gradient
  int64_t size() const { return size_; }
  int64_t room() const { return capacity_ - size_; }
  int64_t capacity() const { return capacity_; }

  // So that rows below `end` can be added.
  Status Reserve(int64_t end);
  // REQUIRES: the row has no frame, and the frame no row.
  void Add(Frame frame, int64_t id, Row row);
  void Remove(Frame frame);
  // It was used by a batch.
  void Touch(Frame frame) { clock_.Touch(frame); }

  void MarkDirty(Frame frame) { marks_[frame].dirty = true; }
  void MarkClean(Frame frame) { marks_[frame].dirty = false; }
  void MarkPending(Frame frame);
  // A step has changed all that have a pending gradient, which stays.
  void MarkStepped();
  void ClearPending();

  std::vector<Frame> Dirty() const;
  std::vector<Frame> All() const;
  // The coldest, at most so many: none of `kept` and none with a pending gradient. They stay in
  // use.
  std::vector<Frame> Coldest(int64_t most, const std::vector<Frame>& kept);

 private:
  template <class Wanted>
  std::vector<Frame> Those(Wanted wanted) const;

  // Apart from entries, since a step marks all that it changes.
  struct Marks {
    bool dirty : 1 = false;
    bool pending : 1 = false;
  };

  int64_t capacity_;
  int64_t size_ = 0;
  int64_t known_rows_ = 0;
  Chunks<Frame> frames_;        // by row: its frame + 1; 0: none
  std::vector<Entry> entries_;  // by frame
  std::vector<Marks> marks_;    // by frame
  Clock clock_;                 // of frames
  std::vector<Frame> pending_;  // some may be unused by now
};

}  // namespace recis
