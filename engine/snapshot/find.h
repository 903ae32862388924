// Lookups in the mapped files of a snapshot.
//
// Threads: any. Nothing outside what is given is read, whatever the files hold.
#pragma once

#include <cstddef>
#include <cstdint>

#include "snapshot/part_writer.h"

namespace recis {

// A part's ids, ordered by slice and then by id, and where each slice of it begins among them.
struct SortedIds {
  PartRange range;
  const int64_t* slice_offsets;  // (range.end - range.begin + 1)
  const int64_t* ids;            // (size)
  int64_t size;
};

// rows[i]: the place of ids[i] in the part, or -1.
void FindSorted(const SortedIds& part, const int64_t* ids, int64_t n, int64_t* rows);

// out[i] = source[rows[i]], rows of `row_bytes`; where rows[i] is negative, out[i] stays as it is.
void GatherRows(const std::byte* source, size_t row_bytes, const int64_t* rows, int64_t n,
                std::byte* out);

}  // namespace recis
