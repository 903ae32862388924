// Rows of a table on a device: whose they are, and their records. See device_kernels.h.
#pragma once

#include "device/device_index_impl.h"
#include "device/device_kernels.h"
#include "device/draw_impl.h"

namespace recis {
namespace {

RECIS_DEVICE inline std::byte* At(const ChunkView& view, uint64_t i) {
  const auto chunk =
      static_cast<uint32_t>((static_cast<unsigned __int128>(i) * view.inverse) >> 64);
  return view.chunks[chunk] + (i - uint64_t{chunk} * view.chunk_elements) * view.element_bytes;
}
RECIS_DEVICE inline RowEntry& EntryOf(const DeviceTableView& table, Row row) {
  return *reinterpret_cast<RowEntry*>(At(table.rows, row));
}
RECIS_DEVICE inline Row& FreedAt(const DeviceTableView& table, uint64_t i) {
  return *reinterpret_cast<Row*>(At(table.freed, i));
}
RECIS_DEVICE inline bool IsLive(const DeviceTableView& table, int64_t row) {
  return row >= 0 && static_cast<uint64_t>(row) < table.counts->end &&
         EntryOf(table, static_cast<Row>(row)).live != 0;
}
// How many of n items there are, where the device alone knows.
RECIS_DEVICE inline bool IsThere(const uint32_t* count, int64_t item) {
  return count == nullptr || item < *count;
}

// ---- copying --------------------------------------------------------------------------

struct alignas(16) Piece16 {
  uint64_t low, high;
};

template <class Piece, class Tile>
RECIS_DEVICE void CopyPieces(const Tile& tile, const std::byte* from, std::byte* to, size_t bytes) {
  tile.Each([&](int lane) {
    for (size_t i = lane; i < bytes / sizeof(Piece); i += Tile::kLanes) {
      reinterpret_cast<Piece*>(to)[i] =
          from == nullptr ? Piece{} : reinterpret_cast<const Piece*>(from)[i];
    }
  });
}

// Copies in the largest pieces that fit; null reads as zeros.
template <class Tile>
RECIS_DEVICE void CopyBytes(const Tile& tile, const std::byte* from, std::byte* to, size_t bytes) {
  const uint64_t fit = reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) | bytes;
  if (fit % 16 == 0) return CopyPieces<Piece16>(tile, from, to, bytes);
  if (fit % 8 == 0) return CopyPieces<uint64_t>(tile, from, to, bytes);
  if (fit % 4 == 0) return CopyPieces<uint32_t>(tile, from, to, bytes);
  if (fit % 2 == 0) return CopyPieces<uint16_t>(tile, from, to, bytes);
  CopyPieces<uint8_t>(tile, from, to, bytes);
}

template <class Tile>
RECIS_DEVICE void CountHit(const Tile& tile, const DeviceTableView& table, int64_t item) {
  tile.From(0, [&] {
    AtomicAdd(&table.counts->hits[item % DeviceCounts::kStripes], uint64_t{1});
    return true;
  });
}

// ---- finding --------------------------------------------------------------------------

struct FindRows {
  DeviceTableView table;
  FindArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!IsThere(args.count, item)) return;
    const int64_t id = args.ids[item];
    const uint64_t place = FindPlace(tile, table.index, id);
    tile.From(0, [&] {
      args.rows[item] = place == kNoPlace ? kNoRow
                                          : table.index.buckets[place / IndexBucket::kPlaces]
                                                .rows[place % IndexBucket::kPlaces];
      if (args.places != nullptr) args.places[item] = place;
      return true;
    });
  }
};

struct ReadRows {
  DeviceTableView table;
  const int64_t* ids;
  size_t bytes;
  std::byte* out;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const Row row = FindRow(tile, table.index, ids[item]);
    if (row != kNoRow) CountHit(tile, table, item);
    CopyBytes(tile, row == kNoRow ? nullptr : At(table.records, row), out + item * bytes, bytes);
  }
};

struct CountRowHits {
  DeviceTableView table;
  const Row* rows;
  const uint32_t* inverse;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (rows[inverse[item]] != kNoRow) CountHit(tile, table, item);
  }
};

struct GatherRows {
  DeviceTableView table;
  GatherArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const Row row = args.rows[args.inverse == nullptr ? item : args.inverse[item]];
    CopyBytes(tile, row == kNoRow ? nullptr : At(table.records, row) + args.offset,
              args.values + item * args.bytes, args.bytes);
  }
};

// ---- admitting ------------------------------------------------------------------------

struct MarkAdmitted {
  AdmitArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    args.ranks[item] = item < args.n && IsThere(args.count, item) && args.rows[item] == kNoRow &&
                               (args.admit == nullptr || args.admit[item])
                           ? 1
                           : 0;
  }
};

// REQUIRES: ranks are summed.
RECIS_DEVICE inline bool IsRanked(const uint32_t* ranks, int64_t item) {
  return ranks[item + 1] != ranks[item];
}

// Gives a row to each id that is admitted, and a place in the index.
struct AssignRows {
  DeviceTableView table;
  AdmitArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!IsRanked(args.ranks, item)) return;
    const uint64_t turn = args.ranks[args.n] - 1 - args.ranks[item];
    const uint64_t freed = table.counts->freed;
    const Row row = turn < freed ? FreedAt(table, freed - 1 - turn)
                                 : static_cast<Row>(table.counts->end + (turn - freed));
    InsertId(tile, table.index, args.ids[item], row);
    tile.From(0, [&] {
      EntryOf(table, row) = {.id = args.ids[item], .live = 1, .changed = 1, .gradient = 0};
      args.rows[item] = row;
      return true;
    });
  }
};

struct CountAdmitted {
  DeviceTableView table;
  AdmitArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t) const {
    DeviceCounts& counts = *table.counts;
    const uint64_t admitted = args.ranks[args.n];
    const uint64_t reused = admitted < counts.freed ? admitted : counts.freed;
    counts.freed -= reused;
    counts.end += admitted - reused;
    counts.used_places += admitted;
    counts.admits += admitted;
  }
};

struct WriteNewRecords {
  DeviceTableView table;
  AdmitArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!IsRanked(args.ranks, item)) return;
    CopyBytes(tile, args.new_record, At(table.records, args.rows[item]), args.record_bytes);
  }
};

struct DrawEmbeddings {
  DeviceTableView table;
  AdmitArgs args;
  DrawArgs draw;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!IsRanked(args.ranks, item)) return;
    const int64_t id = args.ids[item];
    std::byte* record = At(table.records, args.rows[item]);
    tile.Each([&](int lane) {
      for (int64_t at = lane * kDrawBlock; at < args.dim; at += Tile::kLanes * kDrawBlock) {
        const int64_t left = args.dim - at;
        DrawPart(draw, id, args.dtype, at, static_cast<int>(left < kDrawBlock ? left : kDrawBlock),
                 record);
      }
    });
  }
};

// ---- evicting -------------------------------------------------------------------------

struct MarkFound {
  EvictArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    args.ranks[item] =
        item < args.n && IsThere(args.count, item) && args.rows[item] != kNoRow ? 1 : 0;
  }
};

struct EvictRows {
  DeviceTableView table;
  EvictArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!IsRanked(args.ranks, item)) return;
    const Row row = args.rows[item];
    CopyBytes(tile, nullptr, At(table.records, row), args.record_bytes);
    tile.From(0, [&] {
      const uint64_t place = args.places[item];
      table.index.buckets[place / IndexBucket::kPlaces].digests[place % IndexBucket::kPlaces] =
          IndexBucket::kMarked;
      RowEntry& entry = EntryOf(table, row);
      if (entry.gradient != 0) table.gradient_rows[entry.gradient - 1] = kNoRow;
      entry = {};
      FreedAt(table, table.counts->freed + args.ranks[item]) = row;
      return true;
    });
  }
};

struct CountEvicted {
  DeviceTableView table;
  EvictArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t) const {
    table.counts->freed += args.ranks[args.n];
  }
};

// ---- by row ---------------------------------------------------------------------------

struct InsertLiveRow {
  DeviceTableView table;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const Row row = static_cast<Row>(item);
    if (IsLive(table, item)) InsertId(tile, table.index, EntryOf(table, row).id, row);
  }
};

struct CountRebuilt {
  DeviceTableView table;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t) const {
    table.counts->used_places = table.counts->end - table.counts->freed;
  }
};

struct FindLast {
  const uint32_t* inverse;
  uint32_t* last;  // zeros

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    AtomicMax(&last[inverse[item]], static_cast<uint32_t>(item));
  }
};

struct ScatterRows {
  DeviceTableView table;
  ScatterArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!IsThere(args.count, item)) return;
    const int64_t from = args.last == nullptr ? item : args.last[item];
    CopyBytes(tile, args.values + from * args.bytes,
              At(table.records, args.rows[item]) + args.offset, args.bytes);
  }
};

struct AddToRows {
  DeviceTableView table;
  const Row* rows;
  size_t offset;
  int64_t dim;
  const int64_t* values;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    auto* sums = reinterpret_cast<uint64_t*>(At(table.records, rows[item]) + offset);
    tile.Each([&](int lane) {
      for (int64_t i = lane; i < dim; i += Tile::kLanes) {
        AtomicAdd(&sums[i], static_cast<uint64_t>(values[item * dim + i]));  // wraps
      }
    });
  }
};

struct CheckRow {
  DeviceTableView table;
  const int64_t* rows;
  Row* out;
  uint32_t* bad;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    const int64_t row = rows[item];
    out[item] = static_cast<Row>(row);
    if (!IsLive(table, row)) AtomicMin(bad, static_cast<uint32_t>(item));
  }
};

struct MarkLive {
  DeviceTableView table;
  int64_t end;
  uint32_t* ranks;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    ranks[item] = item < end && IsLive(table, item) ? 1 : 0;
  }
};

struct TakeLive {
  DeviceTableView table;
  const uint32_t* ranks;
  int64_t capacity;
  int64_t* ids;
  int64_t* rows;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    if (!IsRanked(ranks, item) || ranks[item] >= capacity) return;
    ids[ranks[item]] = EntryOf(table, static_cast<Row>(item)).id;
    rows[ranks[item]] = item;
  }
};

struct TellRow {
  const Row* rows;
  int64_t* wide;
  bool* there;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    const Row row = rows[item];
    if (wide != nullptr) wide[item] = row == kNoRow ? -1 : int64_t{row};
    if (there != nullptr) there[item] = row != kNoRow;
  }
};

struct RowIfLive {
  DeviceTableView table;
  Row* rows;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    rows[item] = IsLive(table, item) ? static_cast<Row>(item) : kNoRow;
  }
};

// ---- noting what changes ------------------------------------------------------------

RECIS_DEVICE inline void Mark(const DeviceTableView& table, Row row) {
  AtomicCompareExchange(&EntryOf(table, row).changed, uint16_t{0}, uint16_t{1});
}

struct MarkRow {
  DeviceTableView table;
  const Row* rows;
  const uint32_t* count;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    if (IsThere(count, item) && rows[item] != kNoRow) Mark(table, rows[item]);
  }
};

struct ForgetChange {
  DeviceTableView table;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    EntryOf(table, static_cast<Row>(item)).changed = 0;
  }
};

// ---- moving records -----------------------------------------------------------------

// The first `bytes` of each live row's record, from new_record or from the old one.
struct WriteRecords {
  DeviceTableView table;
  ChunkView records;
  const std::byte* new_record;  // null: the old one
  size_t bytes;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!IsLive(table, item)) return;
    CopyBytes(tile, new_record == nullptr ? At(table.records, item) : new_record, At(records, item),
              bytes);
  }
};

}  // namespace
}  // namespace recis
