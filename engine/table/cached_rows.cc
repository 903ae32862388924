#include "table/cached_rows.h"

#include <algorithm>
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
  clock_.Free(frame);
  --size_;
}

void CachedRows::MarkPending(Frame frame) {
  if (entries_[frame].pending) return;
  entries_[frame].pending = true;
  clock_.Pin(frame);
  pending_.push_back(frame);
}

void CachedRows::MarkStepped() {
  for (const Frame frame : pending_) entries_[frame].dirty |= entries_[frame].pending;
}

void CachedRows::ClearPending() {
  for (const Frame frame : pending_) {
    if (!entries_[frame].pending) continue;
    entries_[frame].pending = false;
    clock_.Unpin(frame);
  }
  pending_.clear();
}

template <class Wanted>
std::vector<Frame> CachedRows::Those(Wanted wanted) const {
  std::vector<Frame> frames;
  for (Frame frame = 0; frame < entries_.size(); ++frame) {
    if (entries_[frame].row != kNoRow && wanted(entries_[frame])) frames.push_back(frame);
  }
  return frames;
}

std::vector<Frame> CachedRows::Dirty() const {
  return Those([](const Entry& entry) { return entry.dirty; });
}

std::vector<Frame> CachedRows::All() const {
  return Those([](const Entry&) { return true; });
}

void CachedRows::Unpin(const std::vector<Frame>& frames) {
  for (const Frame frame : frames) {
    if (!entries_[frame].pending) clock_.Unpin(frame);
  }
}

std::vector<Frame> CachedRows::Coldest(int64_t most, const std::vector<Frame>& kept) {
  for (const Frame frame : kept) clock_.Pin(frame);
  std::vector<Frame> frames;
  while (static_cast<int64_t>(frames.size()) < most) {
    const std::optional<Frame> victim = clock_.Victim();
    if (!victim) break;
    clock_.Pin(*victim);  // not to be named twice
    frames.push_back(*victim);
  }
  Unpin(frames);
  Unpin(kept);
  return frames;
}

}  // namespace recis
