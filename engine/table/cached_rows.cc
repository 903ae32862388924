#include "table/cached_rows.h"

#include <algorithm>
#include <iterator>
#include <optional>

namespace recis {

Status CachedRows::Reserve(int64_t end) {
  RECIS_RETURN_IF_ERROR(frames_.Reserve(end));
  known_rows_ = std::max(known_rows_, end);
  return {};
}

void CachedRows::Add(Frame frame, int64_t id, Row row) {
  if (frame >= entries_.size()) {
    entries_.resize(frame + 1);
    marks_.resize(frame + 1);
    clock_.Resize(frame + 1);
  }
  RECIS_CHECK(entries_[frame].row == kNoRow && FrameOf(row) == kNoFrame && size_ < capacity_);
  entries_[frame] = {.id = id, .row = row};
  frames_[row] = frame + 1;
  clock_.Use(frame);
  ++size_;
}

void CachedRows::Remove(Frame frame) {
  frames_[entries_[frame].row] = 0;
  entries_[frame] = Entry();
  marks_[frame] = Marks();
  clock_.Free(frame);
  --size_;
}

void CachedRows::MarkPending(Frame frame) {
  if (marks_[frame].pending) return;
  marks_[frame].pending = true;
  pending_.push_back(frame);
}

void CachedRows::MarkStepped() {
  for (const Frame frame : pending_) marks_[frame].dirty |= marks_[frame].pending;
}

void CachedRows::ClearPending() {
  for (const Frame frame : pending_) marks_[frame].pending = false;
  pending_.clear();
}

template <class Wanted>
std::vector<Frame> CachedRows::Those(Wanted wanted) const {
  std::vector<Frame> frames;
  for (Frame frame = 0; frame < entries_.size(); ++frame) {
    if (entries_[frame].row != kNoRow && wanted(frame)) frames.push_back(frame);
  }
  return frames;
}

std::vector<Frame> CachedRows::Dirty() const {
  return Those([this](Frame frame) { return dirty(frame); });
}

std::vector<Frame> CachedRows::All() const {
  return Those([](Frame) { return true; });
}

std::vector<Frame> CachedRows::Coldest(int64_t most, const std::vector<Frame>& kept) {
  std::vector<Frame> pinned = kept;
  std::copy_if(pending_.begin(), pending_.end(), std::back_inserter(pinned),
               [this](Frame frame) { return pending(frame); });
  for (const Frame frame : pinned) clock_.Pin(frame);
  std::vector<Frame> frames;
  while (static_cast<int64_t>(frames.size()) < most) {
    const std::optional<Frame> victim = clock_.Victim();
    if (!victim) break;
    clock_.Pin(*victim);  // not to be named twice
    frames.push_back(*victim);
  }
  for (const Frame frame : pinned) clock_.Unpin(frame);
  for (const Frame frame : frames) clock_.Unpin(frame);
  return frames;
}

}  // namespace recis
