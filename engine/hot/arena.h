// The hot blocks of one table: records in device memory.
//
// A record is `record_bytes` long; a block is `block_rows` records; slabs of about 4 MiB
// hold whole blocks, so a small block size costs no allocation of its own and a block is
// always contiguous. A record never moves while the arena lives.
//
// Threads: Reserve() by one thread while no other uses the arena; At() by any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "device/memory.h"

namespace recis {

class Arena {
 public:
  // REQUIRES: both positive, record_bytes a multiple of 16.
  Arena(size_t record_bytes, int64_t block_rows);

  // Makes rows [0, rows) usable; what is there already stays. Fresh records are zeros.
  Status Reserve(int64_t rows);

  // Gives the memory of rows from this one on back to the system.
  void Shrink(int64_t rows);

  std::byte* At(Row row) const {
    const auto slab =
        static_cast<uint32_t>((static_cast<unsigned __int128>(row) * slab_inverse_) >> 64);
    return bases_[slab] + (row - slab * slab_rows_) * record_bytes_;
  }

  // Keeps the slab of a row alive beyond the arena, for views handed out.
  std::shared_ptr<const Slab> SlabOf(Row row) const { return slabs_[row / slab_rows_]; }
  // Lets go of a slab whose rows will not be read again.
  void ReleaseSlab(size_t slab) { slabs_[slab].reset(); }

  size_t record_bytes() const { return record_bytes_; }
  int64_t block_rows() const { return block_rows_; }
  uint32_t slab_rows() const { return slab_rows_; }
  int64_t reserved_rows() const { return static_cast<int64_t>(slabs_.size()) * slab_rows_; }
  size_t bytes() const { return slabs_.size() * slab_rows_ * record_bytes_; }

 private:
  size_t record_bytes_;
  int64_t block_rows_;
  uint32_t slab_rows_;
  uint64_t slab_inverse_;  // floor(2^64 / slab_rows) + 1: exact for 32-bit rows
  std::vector<std::shared_ptr<Slab>> slabs_;
  std::vector<std::byte*> bases_;
};

}  // namespace recis
