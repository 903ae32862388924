// A cold block: records of one table, packed into one immutable value of the store.
//
//   header  64 bytes: magic, version, table, sequence, rows, record bytes, checksum
//   entries each: checksum (8 bytes), id (8), row (4), zero (4), record
//   zeros   up to 4096 k - 16 bytes, what fits k pages of LMDB exactly
//
// The checksum of an entry covers its id, row and record and is seeded with the sequence
// and position, so one row can be read alone and known to be the right one. The header's
// covers the header. docs/format.md has every byte.
//
// Threads: Add(), Close() and Seal() by one at a time. Ids, rows and records of a closed block may
//   be read by any, also while it is sealed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/row.h"
#include "base/status.h"
#include "device/memory.h"

namespace recis {

// The place of a block in the log: later blocks have greater ones, and none is used twice.
using Sequence = uint64_t;

// Bytes on disk, little-endian: never reorder; raise the version.
struct BlockHeader {
  uint32_t magic = 0x31424352;  // "RCB1"
  uint32_t version = 1;
  uint32_t table = 0;
  uint32_t rows = 0;
  uint64_t sequence = 0;
  uint64_t record_bytes = 0;
  uint64_t zero[3] = {};
  uint64_t checksum = 0;  // xxh3 of the bytes before it

  uint64_t Checksum() const;
};
static_assert(sizeof(BlockHeader) == 64);

struct EntryHeader {
  uint64_t checksum;
  int64_t id;
  Row row;
  uint32_t zero;
};
static_assert(sizeof(EntryHeader) == 24);

class Block {
 public:
  static constexpr int64_t kMaxRows = 1 << 16;

  // Entries of `record_bytes` that a block of at most `value_bytes` holds, at least one.
  static int64_t RowsFor(size_t record_bytes, size_t value_bytes);
  // 16,368 bytes, or 65,520 for records above 1.5 KB.
  static size_t ValueBytesFor(size_t record_bytes);
  static uint64_t Checksum(const EntryHeader& header, const std::byte* record, size_t record_bytes,
                           Sequence sequence, uint32_t position);
  // Bytes of the value of a block.
  static size_t ValueBytes(uint32_t rows, size_t record_bytes);
  // Where the entry at a position starts within the value.
  static size_t OffsetOf(uint32_t position, size_t record_bytes);

  Block(uint32_t table, size_t record_bytes, int64_t capacity);

  // Appends a record and returns its position. REQUIRES: !full().
  uint32_t Add(int64_t id, Row row, const std::byte* record);
  // Gives the block its place in the log; nothing is added after it. REQUIRES: rows() > 0.
  void Close(Sequence sequence);
  // Writes header and checksums. Touches nothing that id(), row() and record() read. REQUIRES:
  // closed.
  void Seal();

  bool full() const { return rows_ == capacity_; }
  uint32_t rows() const { return rows_; }
  uint32_t table() const { return table_; }
  Sequence sequence() const { return sequence_; }  // 0 until closed
  size_t record_bytes() const { return record_bytes_; }
  int64_t id(uint32_t position) const;
  Row row(uint32_t position) const;
  const std::byte* record(uint32_t position) const;
  // The value to store, (4096 k - 16 bytes). REQUIRES: sealed.
  const std::byte* value() const { return value_.data(); }
  size_t value_bytes() const;

 private:
  uint32_t table_;
  Sequence sequence_ = 0;
  size_t record_bytes_;
  uint32_t capacity_;
  uint32_t rows_ = 0;
  Buffer value_;
};

}  // namespace recis
