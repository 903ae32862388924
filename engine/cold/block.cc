#include "cold/block.h"

#include <algorithm>
#include <cstring>

#include "xxhash.h"

namespace recis {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kPageHeaderBytes = 16;  // LMDB's, once a value

// Values of few pages waste little where a block is short, and one read brings a record of them
// all the same; wide records would leave much of a small block empty.
constexpr size_t kSmallValueBytes = 4 * kPageBytes - kPageHeaderBytes;
constexpr size_t kLargeValueBytes = 16 * kPageBytes - kPageHeaderBytes;
constexpr size_t kLargestSmallRecord = 1536;

size_t Stride(size_t record_bytes) { return sizeof(EntryHeader) + record_bytes; }

size_t RoundToPages(size_t bytes) {
  return (bytes + kPageHeaderBytes + kPageBytes - 1) / kPageBytes * kPageBytes - kPageHeaderBytes;
}

}  // namespace

uint64_t BlockHeader::Checksum() const {
  return XXH3_64bits(this, offsetof(BlockHeader, checksum));
}

int64_t Block::RowsFor(size_t record_bytes, size_t value_bytes) {
  if (value_bytes < OffsetOf(1, record_bytes)) return 1;
  return static_cast<int64_t>((value_bytes - sizeof(BlockHeader)) / Stride(record_bytes));
}

size_t Block::ValueBytesFor(size_t record_bytes) {
  return record_bytes <= kLargestSmallRecord ? kSmallValueBytes : kLargeValueBytes;
}

// Two hashes, so that a reader may have the record elsewhere than its header.
uint64_t Block::Checksum(const EntryHeader& header, const std::byte* record, size_t record_bytes,
                         Sequence sequence, uint32_t position) {
  const size_t covered = sizeof(EntryHeader) - offsetof(EntryHeader, id);
  const uint64_t place = (sequence << 16) ^ position;
  return XXH3_64bits_withSeed(record, record_bytes,
                              XXH3_64bits_withSeed(&header.id, covered, place));
}

size_t Block::OffsetOf(uint32_t position, size_t record_bytes) {
  return sizeof(BlockHeader) + position * Stride(record_bytes);
}

size_t Block::ValueBytes(uint32_t rows, size_t record_bytes) {
  return RoundToPages(OffsetOf(rows, record_bytes));
}

Block::Block(uint32_t table, size_t record_bytes, int64_t capacity)
    : table_(table),
      record_bytes_(record_bytes),
      capacity_(static_cast<uint32_t>(capacity)),
      value_(BufferCache::Get(RoundToPages(OffsetOf(capacity_, record_bytes)))) {
  RECIS_CHECK(capacity > 0 && capacity <= kMaxRows);
}

uint32_t Block::Add(int64_t id, Row row, const std::byte* record) {
  const uint32_t position = rows_;
  std::byte* entry = value_.data() + OffsetOf(position, record_bytes_);
  const EntryHeader header{0, id, row, 0};
  std::memcpy(entry, &header, sizeof(header));
  std::memcpy(entry + sizeof(header), record, record_bytes_);
  ++rows_;
  return position;
}

void Block::Close(Sequence sequence) {
  RECIS_CHECK(rows_ > 0);
  sequence_ = sequence;
}

void Block::Seal() {
  for (uint32_t position = 0; position < rows_; ++position) {
    const EntryHeader header{0, id(position), row(position), 0};
    const uint64_t checksum =
        Checksum(header, record(position), record_bytes_, sequence_, position);
    std::memcpy(value_.data() + OffsetOf(position, record_bytes_), &checksum, sizeof(checksum));
  }
  BlockHeader header;
  header.table = table_;
  header.rows = rows_;
  header.sequence = sequence_;
  header.record_bytes = record_bytes_;
  header.checksum = header.Checksum();
  std::memcpy(value_.data(), &header, sizeof(header));
  const size_t used = OffsetOf(rows_, record_bytes_);
  std::memset(value_.data() + used, 0, value_bytes() - used);
}

size_t Block::value_bytes() const { return ValueBytes(rows_, record_bytes_); }

int64_t Block::id(uint32_t position) const {
  int64_t id;
  std::memcpy(&id, value_.data() + OffsetOf(position, record_bytes_) + offsetof(EntryHeader, id),
              sizeof(id));
  return id;
}

Row Block::row(uint32_t position) const {
  Row row;
  std::memcpy(&row, value_.data() + OffsetOf(position, record_bytes_) + offsetof(EntryHeader, row),
              sizeof(row));
  return row;
}

const std::byte* Block::record(uint32_t position) const {
  return value_.data() + OffsetOf(position, record_bytes_) + sizeof(EntryHeader);
}

}  // namespace recis
