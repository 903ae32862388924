#include "store/catalog.h"

#include <algorithm>
#include <utility>

namespace recis {
namespace {

size_t EntryBytes(const Catalog::Entry& entry) { return sizeof(EntryHeader) + entry.record_bytes; }
size_t BitmapBytes(size_t rows) { return (rows + 7) / 8; }

}  // namespace

BlockNumber Catalog::NewNumber() {
  if (unused_.empty()) {
    entries_.emplace_back();
    return static_cast<BlockNumber>(entries_.size() - 1);
  }
  const BlockNumber number = unused_.back();
  unused_.pop_back();
  return number;
}

BlockNumber Catalog::Open(uint32_t table, size_t record_bytes) {
  const BlockNumber number = NewNumber();
  Entry& entry = entries_[number];
  entry.in_use = true;
  entry.table = table;
  entry.record_bytes = static_cast<uint32_t>(record_bytes);
  entry.block = std::make_shared<Block>(
      table, record_bytes, Block::RowsFor(record_bytes, Block::ValueBytesFor(record_bytes)));
  return number;
}

Location Catalog::Add(BlockNumber number, int64_t id, Row row, const std::byte* record) {
  Entry& entry = entries_[number];
  const uint32_t position = entry.block->Add(id, row, record);
  entry.rows = position + 1;
  if (entry.live.size() < BitmapBytes(entry.rows)) entry.live.push_back(0);
  entry.live[position / 8] = static_cast<char>(entry.live[position / 8] | 1 << position % 8);
  ++entry.live_rows;
  ++live_rows_;
  live_bytes_ += static_cast<int64_t>(EntryBytes(entry));
  return Location::Cold(number, position);
}

void Catalog::Close(BlockNumber number, Sequence sequence) {
  Entry& entry = entries_[number];
  entry.block->Close(sequence);
  entry.sequence = sequence;
  entry.value_bytes = entry.block->value_bytes();
  block_bytes_ += static_cast<int64_t>(entry.value_bytes);
  queued_.emplace_back(number, sequence);
  Change(number);
}

BlockNumber Catalog::Recover(const BlockLiveness& liveness) {
  const BlockNumber number = NewNumber();
  Entry& entry = entries_[number];
  entry.in_use = true;
  entry.sequence = liveness.sequence;
  entry.table = liveness.table;
  entry.rows = liveness.rows;
  entry.record_bytes = static_cast<uint32_t>(liveness.record_bytes);
  entry.value_bytes = Block::ValueBytes(liveness.rows, liveness.record_bytes);
  entry.live = liveness.live;
  entry.live.resize(BitmapBytes(liveness.rows));
  for (const char byte : entry.live) {
    entry.live_rows += static_cast<uint32_t>(__builtin_popcount(static_cast<uint8_t>(byte)));
  }
  live_rows_ += entry.live_rows;
  live_bytes_ += static_cast<int64_t>(entry.live_rows * EntryBytes(entry));
  block_bytes_ += static_cast<int64_t>(entry.value_bytes);
  known_end_ = std::max(known_end_, liveness.sequence + 1);
  if (entry.live_rows == 0) {
    Dead(number);
    // The log deletes what both epochs know as dead when it opens: this one knows it.
    std::erase(dead_new_, number);
    dead_in_last_.push_back(number);
  }
  return number;
}

void Catalog::Change(BlockNumber number) {
  Entry& entry = entries_[number];
  if (entry.changed || entry.sequence == 0) return;
  entry.changed = true;
  changed_.push_back(number);
}

bool Catalog::Live(BlockNumber number, uint32_t position) const {
  return entries_[number].live[position / 8] >> position % 8 & 1;
}

void Catalog::Kill(Location location) {
  Entry& entry = entries_[location.block()];
  char& byte = entry.live[location.position() / 8];
  byte = static_cast<char>(byte & ~(1 << location.position() % 8));
  --entry.live_rows;
  --live_rows_;
  live_bytes_ -= static_cast<int64_t>(EntryBytes(entry));
  Change(location.block());
  if (entry.live_rows == 0 && entry.sequence != 0) Dead(location.block());
}

void Catalog::Dead(BlockNumber number) {
  Entry& entry = entries_[number];
  block_bytes_ -= static_cast<int64_t>(entry.value_bytes);
  if (entry.sequence >= known_end_) {
    discards_.push_back(entry.sequence);
    Forget(number);
    return;
  }
  dead_bytes_ += static_cast<int64_t>(entry.value_bytes);
  dead_new_.push_back(number);
}

void Catalog::Forget(BlockNumber number) {
  entries_[number] = Entry();
  unused_.push_back(number);
}

void Catalog::Durable(Sequence end) {
  for (; !queued_.empty() && queued_.front().second < end; queued_.pop_front()) {
    const auto [number, sequence] = queued_.front();
    // Else the number is another block's by now.
    if (entries_[number].sequence == sequence) entries_[number].block.reset();
  }
}

std::vector<Sequence> Catalog::TakeDiscards() { return std::exchange(discards_, {}); }

void Catalog::Collect(Changes* changes) {
  std::sort(changed_.begin(), changed_.end());
  changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
  for (const BlockNumber number : changed_) {
    Entry& entry = entries_[number];
    // Given up meanwhile, and perhaps in use again for a block that is still open.
    if (!entry.changed) continue;
    entry.changed = false;
    changes->liveness.push_back(
        {entry.sequence, entry.table, entry.rows, entry.record_bytes, entry.live});
    known_end_ = std::max(known_end_, entry.sequence + 1);
  }
  changed_.clear();
  dead_collected_.insert(dead_collected_.end(), dead_new_.begin(), dead_new_.end());
  dead_new_.clear();
  changes->dead.clear();
  for (const BlockNumber number : dead_in_last_) changes->dead.push_back(entries_[number].sequence);
}

void Catalog::Committed() {
  for (const BlockNumber number : dead_in_last_) {
    dead_bytes_ -= static_cast<int64_t>(entries_[number].value_bytes);
    Forget(number);
  }
  dead_in_last_ = std::exchange(dead_collected_, {});
}

std::vector<BlockNumber> Catalog::ToClean(double ratio, int64_t slack_bytes,
                                          const std::function<bool(uint32_t)>& skip) const {
  struct Candidate {
    double live;  // share of it
    BlockNumber number;
  };
  std::vector<Candidate> candidates;
  for (BlockNumber number = 0; number < end(); ++number) {
    const Entry& entry = entries_[number];
    if (!entry.in_use || entry.sequence == 0 || entry.live_rows == 0 || entry.block ||
        skip(entry.table)) {
      continue;
    }
    candidates.push_back({static_cast<double>(entry.live_rows * EntryBytes(entry)) /
                              static_cast<double>(entry.value_bytes),
                          number});
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.live != b.live ? a.live < b.live : a.number < b.number;
  });
  const double most = ratio * static_cast<double>(live_bytes_) + static_cast<double>(slack_bytes);
  double bytes = static_cast<double>(block_bytes_);
  std::vector<BlockNumber> chosen;
  for (const Candidate& candidate : candidates) {
    if (bytes <= most) break;
    bytes -= static_cast<double>(entries_[candidate.number].value_bytes) * (1 - candidate.live);
    chosen.push_back(candidate.number);
  }
  return chosen;
}

int64_t Catalog::blocks() const { return static_cast<int64_t>(entries_.size() - unused_.size()); }

}  // namespace recis
