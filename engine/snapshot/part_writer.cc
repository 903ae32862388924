#include "snapshot/part_writer.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/thread_pool.h"
#include "device/memory.h"
#include "snapshot/direct_file.h"
#include "xxhash.h"

namespace recis {
namespace {

constexpr size_t kChunkBytes = size_t{8} << 20;  // of records gathered at a time
constexpr int64_t kMaxChunkRows = 8192;

// Sections of the file.
constexpr size_t kIds = 0, kSliceOffsets = 1, kChecksums = 2, kSlots = 3;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// The checksums of one column, group by group.
class ColumnHash {
 public:
  // ends: the row after the last of each group.
  explicit ColumnHash(const std::vector<int64_t>& ends) : ends_(ends), state_(XXH3_createState()) {
    XXH3_64bits_reset(state_.get());
  }

  // Rows [first, first + n) of the part.
  void Add(const std::byte* values, int64_t first, int64_t n, size_t row_bytes) {
    const int64_t end = first + n;
    while (first < end) {
      Finish(first);
      const int64_t until = std::min(end, ends_[sums_.size()]);
      const auto bytes = static_cast<size_t>(until - first) * row_bytes;
      XXH3_64bits_update(state_.get(), values, bytes);
      values += bytes;
      first = until;
    }
  }
  const std::vector<uint64_t>& Sums() {
    Finish(INT64_MAX);
    return sums_;
  }
  uint64_t Whole() { return XXH3_64bits(Sums().data(), sums_.size() * sizeof(uint64_t)); }

 private:
  // Ends the groups that have no row from `row` on.
  void Finish(int64_t row) {
    for (; sums_.size() < ends_.size() && ends_[sums_.size()] <= row;) {
      sums_.push_back(XXH3_64bits_digest(state_.get()));
      XXH3_64bits_reset(state_.get());
    }
  }

  const std::vector<int64_t>& ends_;
  std::unique_ptr<XXH3_state_t, FreeState> state_;
  std::vector<uint64_t> sums_;
};

std::vector<int64_t> SliceOffsets(const std::vector<RowOfId>& rows, const PartRange& range) {
  std::vector<int64_t> offsets(range.end - range.begin + 1, 0);
  for (const RowOfId& row : rows) ++offsets[SliceOf(row.id, range.slices) - range.begin + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  return offsets;
}

std::vector<int64_t> GroupEnds(const std::vector<int64_t>& offsets) {
  const size_t slices = offsets.size() - 1;
  std::vector<int64_t> ends;
  for (size_t first = 0; first < slices; first += kGroupSlices) {
    ends.push_back(offsets[std::min<size_t>(first + kGroupSlices, slices)]);
  }
  return ends;
}

}  // namespace

std::vector<size_t> PayloadOrder(const std::vector<Slot>& slots) {
  std::vector<size_t> order(slots.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return SizeOf(slots[a].dtype) > SizeOf(slots[b].dtype);
  });
  return order;
}

Result<std::vector<uint64_t>> WritePart(SnapshotSource& source, const std::string& path,
                                        uint64_t offset, const PartRange& range) {
  std::vector<RowOfId> rows;
  RECIS_RETURN_IF_ERROR(source.List(range.slices, range.begin, range.end, &rows));
  const std::vector<int64_t> offsets = SliceOffsets(rows, range);
  const std::vector<int64_t> ends = GroupEnds(offsets);
  const std::vector<Slot>& slots = source.slots();
  const std::vector<size_t> order = PayloadOrder(slots);
  const size_t columns = slots.size() + 1;  // the ids come first
  const auto n = static_cast<int64_t>(rows.size());

  const auto row_bytes = [&](size_t column) {
    return column == 0 ? sizeof(int64_t) : slots[order[column - 1]].bytes();
  };
  std::vector<uint64_t> sizes{rows.size() * sizeof(int64_t), offsets.size() * sizeof(int64_t),
                              ends.size() * columns * sizeof(uint64_t)};
  size_t record_bytes = 0;
  for (size_t column = 1; column < columns; ++column) {
    sizes.push_back(rows.size() * row_bytes(column));
    record_bytes += row_bytes(column);
  }
  Result<std::unique_ptr<DirectFile>> created = DirectFile::Create(path, offset, sizes);
  if (!created.ok()) return created.status();
  DirectFile& file = *created.value();
  RECIS_RETURN_IF_ERROR(
      file.Append(kSliceOffsets, offsets.data(), offsets.size() * sizeof(int64_t)));

  const int64_t chunk_rows = std::clamp<int64_t>(
      static_cast<int64_t>(kChunkBytes / std::max<size_t>(record_bytes, 1)), 1, kMaxChunkRows);
  std::vector<Buffer> chunks;
  std::vector<std::byte*> values(slots.size());
  std::vector<ColumnHash> hashes;
  for (size_t column = 0; column < columns; ++column) {
    chunks.push_back(BufferCache::Get(static_cast<size_t>(chunk_rows) * row_bytes(column)));
    if (column > 0) values[order[column - 1]] = chunks[column].data();
    hashes.emplace_back(ends);
  }
  for (int64_t first = 0; first < n; first += chunk_rows) {
    const int64_t count = std::min(chunk_rows, n - first);
    for (int64_t i = 0; i < count; ++i) chunks[0].as<int64_t>()[i] = rows[first + i].id;
    if (!slots.empty()) RECIS_RETURN_IF_ERROR(source.Gather(rows.data() + first, count, values));
    std::mutex mutex;
    Status failure;
    ParallelFor(static_cast<int64_t>(columns), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto column = static_cast<size_t>(i);
        const size_t bytes = row_bytes(column);
        hashes[column].Add(chunks[column].data(), first, count, bytes);
        Status appended = file.Append(column == 0 ? kIds : kSlots + column - 1,
                                      chunks[column].data(), static_cast<size_t>(count) * bytes);
        const std::lock_guard<std::mutex> lock(mutex);
        if (!appended.ok()) failure = std::move(appended);
      }
    });
    RECIS_RETURN_IF_ERROR(failure);
  }

  std::vector<uint64_t> checksums(ends.size() * columns);
  for (size_t column = 0; column < columns; ++column) {
    const std::vector<uint64_t>& sums = hashes[column].Sums();
    for (size_t group = 0; group < sums.size(); ++group) {
      checksums[group * columns + column] = sums[group];
    }
  }
  RECIS_RETURN_IF_ERROR(
      file.Append(kChecksums, checksums.data(), checksums.size() * sizeof(uint64_t)));
  RECIS_RETURN_IF_ERROR(file.Close());
  source.Done(range.slices, range.begin, range.end);
  std::vector<uint64_t> whole{hashes[0].Whole(),
                              XXH3_64bits(offsets.data(), offsets.size() * sizeof(int64_t)),
                              XXH3_64bits(checksums.data(), checksums.size() * sizeof(uint64_t))};
  for (size_t column = 1; column < columns; ++column) whole.push_back(hashes[column].Whole());
  return whole;
}

}  // namespace recis
