#include "snapshot/part_writer.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "base/thread_pool.h"
#include "device/memory.h"
#include "snapshot/direct_file.h"
#define XXH_STATIC_LINKING_ONLY  // for a state of known size
#include "xxhash.h"

namespace recis {
namespace {

constexpr int64_t kMaxChunkRows = 8192;

// Sections of the file.
constexpr size_t kIds = 0, kSliceOffsets = 1, kChecksums = 2, kSlots = 3;

// The checksums of one column, group by group.
class ColumnHash {
 public:
  // ends: the row after the last of each group.
  explicit ColumnHash(const std::vector<int64_t>& ends) : ends_(ends) {
    XXH3_64bits_reset(&state_);
  }

  // Rows [first, first + n) of the part.
  void Add(const std::byte* values, int64_t first, int64_t n, size_t row_bytes) {
    const int64_t end = first + n;
    while (first < end) {
      Finish(first);
      const int64_t until = std::min(end, ends_[sums_.size()]);
      const auto bytes = static_cast<size_t>(until - first) * row_bytes;
      XXH3_64bits_update(&state_, values, bytes);
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
      sums_.push_back(XXH3_64bits_digest(&state_));
      XXH3_64bits_reset(&state_);
    }
  }

  const std::vector<int64_t>& ends_;
  XXH3_state_t state_;
  std::vector<uint64_t> sums_;
};

// The ids and slots of some rows at a time, gathered where they are written from.
class Columns {
 public:
  Columns(DirectFile& file, const SnapshotSource& source, const std::vector<size_t>& order)
      : file_(file), source_(source), order_(order), values_(order.size() + 1) {
    size_t record_bytes = 0;
    for (const Slot& slot : source.slots()) {
      record_bytes += slot.bytes();
      chunk_rows_ = std::min(chunk_rows_, static_cast<int64_t>(file.room() / slot.bytes()));
      // A row that is too large for the file's buffers takes a way round.
      wide_.push_back(slot.bytes() > file.room() ? BufferCache::Get(slot.bytes()) : Buffer());
    }
    const auto most =
        static_cast<int64_t>(source.gathered_bytes() / std::max<size_t>(record_bytes, 1));
    chunk_rows_ = std::max<int64_t>(std::min(chunk_rows_, most), 1);
  }

  int64_t chunk_rows() const { return chunk_rows_; }
  const std::byte* values(size_t column) const { return values_[column]; }

  Status Gather(const RowOfId* rows, int64_t n) {
    std::vector<std::byte*> slots(order_.size());
    for (size_t column = 0; column < values_.size(); ++column) {
      if (IsWide(column)) {
        values_[column] = wide_[order_[column - 1]].data();
      } else {
        Result<std::byte*> room = file_.Reserve(SectionOf(column), BytesOf(column, n));
        if (!room.ok()) return room.status();
        values_[column] = room.value();
      }
      if (column > 0) slots[order_[column - 1]] = values_[column];
    }
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(values_[0] + i * sizeof(int64_t), &rows[i].id, sizeof(int64_t));
    }
    return slots.empty() ? Status() : source_.Gather(rows, n, slots);
  }
  // They are for the file, and not needed here any more.
  Status Advance(int64_t n) {
    for (size_t column = 0; column < values_.size(); ++column) {
      const size_t bytes = BytesOf(column, n);
      if (!IsWide(column)) {
        file_.Advance(SectionOf(column), bytes);
      } else {
        RECIS_RETURN_IF_ERROR(file_.Append(SectionOf(column), values_[column], bytes));
      }
    }
    return {};
  }

 private:
  static size_t SectionOf(size_t column) { return column == 0 ? kIds : kSlots + column - 1; }
  bool IsWide(size_t column) const {
    return column > 0 && wide_[order_[column - 1]].data() != nullptr;
  }
  size_t BytesOf(size_t column, int64_t n) const {
    const size_t row = column == 0 ? sizeof(int64_t) : source_.slots()[order_[column - 1]].bytes();
    return row * static_cast<size_t>(n);
  }

  DirectFile& file_;
  const SnapshotSource& source_;
  const std::vector<size_t>& order_;
  int64_t chunk_rows_ = kMaxChunkRows;
  std::vector<std::byte*> values_;  // by column: the ids, then the slots in their order
  std::vector<Buffer> wide_;        // by slot
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
  for (size_t column = 1; column < columns; ++column) {
    sizes.push_back(rows.size() * row_bytes(column));
  }
  Result<std::unique_ptr<DirectFile>> created = DirectFile::Create(path, offset, sizes);
  if (!created.ok()) return created.status();
  DirectFile& file = *created.value();
  RECIS_RETURN_IF_ERROR(
      file.Append(kSliceOffsets, offsets.data(), offsets.size() * sizeof(int64_t)));

  std::vector<ColumnHash> hashes(columns, ColumnHash(ends));
  Columns gathered(file, source, order);
  for (int64_t first = 0; first < n; first += gathered.chunk_rows()) {
    const int64_t count = std::min(gathered.chunk_rows(), n - first);
    RECIS_RETURN_IF_ERROR(gathered.Gather(rows.data() + first, count));
    ParallelFor(static_cast<int64_t>(columns), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto column = static_cast<size_t>(i);
        hashes[column].Add(gathered.values(column), first, count, row_bytes(column));
      }
    });
    RECIS_RETURN_IF_ERROR(gathered.Advance(count));
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
