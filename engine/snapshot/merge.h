// The sorted files of a chain of snapshots as one.
//
// Threads: any. Nothing outside what is given is read or written, whatever the files hold; where
// one is not sorted, neither is the result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace recis {

// Ids of a file, ordered by slice and then by id, without repeats.
struct MergeInput {
  const int64_t* ids;  // (size)
  int64_t size;
  bool deleted;  // ids that went, not rows
};

// The rows that count, by slice and then by id: of an id that several inputs have, the last one
// decides, and none counts if that one deletes it. Row rows[i] of input which[i] is the i-th of
// those returned; `which` and `rows` have room for all ids of all inputs.
int64_t Merge(const std::vector<MergeInput>& inputs, uint32_t slices, int32_t* which,
              int64_t* rows);

// Rows [first, ...) of an input, of which those that are asked for are in memory.
struct MergeSource {
  const std::byte* data;
  int64_t first;
};

// out[i] = row rows[i] of source which[i], each of `row_bytes`.
void GatherMerged(const std::vector<MergeSource>& sources, size_t row_bytes, const int32_t* which,
                  const int64_t* rows, int64_t n, std::byte* out);

}  // namespace recis
