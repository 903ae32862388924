#include "table/directory.h"

#include <algorithm>
#include <string>
#include <utility>

namespace recis {

int64_t Directory::EndAfter(int64_t count) const {
  return end_ + std::max<int64_t>(count - static_cast<int64_t>(freed_.size()), 0);
}

Status Directory::Reserve(int64_t count) {
  const int64_t wanted = EndAfter(count);
  if (wanted > static_cast<int64_t>(kNoRow)) {
    return Full("a table holds at most " + std::to_string(kNoRow) + " rows; this one has " +
                std::to_string(live_rows()) + " and " + std::to_string(count) +
                " more were asked for: spread it over more shards");
  }
  while (static_cast<int64_t>(chunks_.size()) * kChunkRows < wanted) {
    Result<Slab> chunk = Slab::Map(kChunkRows * (sizeof(int64_t) + sizeof(bool)));
    if (!chunk.ok()) return chunk.status();
    chunks_.push_back(std::move(chunk.value()));
  }
  return {};
}

void Directory::Allocate(int64_t count, Row* rows) {
  const int64_t reused = std::min<int64_t>(count, static_cast<int64_t>(freed_.size()));
  std::copy(freed_.rbegin(), freed_.rbegin() + reused, rows);
  freed_.resize(freed_.size() - static_cast<size_t>(reused));
  unchanged_ = std::min(unchanged_, freed_.size());
  for (int64_t i = reused; i < count; ++i) rows[i] = static_cast<Row>(end_++);
}

void Directory::Bind(Row row, int64_t id) {
  ids(row) = id;
  live(row) = true;
}

void Directory::Free(Row row) {
  live(row) = false;
  freed_.push_back(row);
}

void Directory::Clear() {
  chunks_.clear();
  freed_ = std::vector<Row>();  // {} would keep its memory
  unchanged_ = 0;
  end_ = 0;
}

int64_t Directory::TakeUnchanged() {
  return static_cast<int64_t>(std::exchange(unchanged_, freed_.size()));
}

Status Directory::Recover(int64_t end, std::vector<Row> freed) {
  RECIS_RETURN_IF_ERROR(Reserve(end));
  end_ = end;
  freed_ = std::move(freed);
  unchanged_ = freed_.size();
  return {};
}

size_t Directory::Bytes() const {
  return static_cast<size_t>(end_) * (sizeof(int64_t) + sizeof(bool)) +
         freed_.capacity() * sizeof(Row);
}

}  // namespace recis
