// What one lookup found: the distinct ids of a batch, their rows, and who they are.
//
// Threads: written by the lookup that makes it, read-only afterwards.
#pragma once

#include <cstdint>
#include <vector>

#include "base/row.h"
#include "device/memory.h"

namespace recis {

struct Batch {
  int64_t size = 0;        // ids asked for, repeats included
  int64_t distinct = 0;    // of them
  Buffer ids;              // int64 (distinct), in order of first occurrence
  Buffer rows;             // Row (distinct); kNoRow where the id has none
  Buffer inverse;          // uint32 (size): which distinct id each position holds
  Buffer times;            // uint32 (size): occurrences each position stands for; none: one each
  uint64_t evictions = 0;  // the table's count when `rows` was true

  const int64_t* id_data() const { return ids.as<int64_t>(); }
  Row* row_data() const { return rows.as<Row>(); }
  const uint32_t* inverse_data() const { return inverse.as<uint32_t>(); }
  // Occurrences of each distinct id.
  std::vector<uint32_t> Counts() const;
};

// The positions of each distinct id, ascending, one id after the other.
struct Occurrences {
  explicit Occurrences(const Batch& batch)
      : Occurrences(batch.inverse_data(), batch.size, batch.distinct) {}
  Occurrences(const uint32_t* inverse, int64_t size, int64_t distinct);

  uint32_t Count(int64_t i) const { return starts()[i + 1] - starts()[i]; }
  const uint32_t* starts() const { return offsets.as<uint32_t>(); }
  const uint32_t* order() const { return positions.as<uint32_t>(); }

  Buffer offsets;    // uint32 (distinct + 1) into positions
  Buffer positions;  // uint32 (size)
};

}  // namespace recis
