// Writes the payload of one part of a snapshot: docs/format.md, "A sparse file".
//
// Records are gathered once for all slots, some thousand at a time; their columns are hashed and
// go to the file side by side.
//
// Threads: any, also for several parts of one source at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "table/snapshot_source.h"

namespace recis {

// Slices that one checksum covers.
inline constexpr uint32_t kGroupSlices = 256;

// Which part: slices [begin, end) of `slices`.
struct PartRange {
  uint32_t slices;
  uint32_t begin;
  uint32_t end;
};

// The order of slots in a file: by falling size of an element, else that of the table.
std::vector<size_t> PayloadOrder(const std::vector<Slot>& slots);

// Makes the file and writes the payload from `offset` on; what is before it is the caller's, and so
// is syncing it. Returns the checksums of ids, slice_offsets, checksums and the slots in their
// order.
Result<std::vector<uint64_t>> WritePart(SnapshotSource& source, const std::string& path,
                                        uint64_t offset, const PartRange& range);

}  // namespace recis
