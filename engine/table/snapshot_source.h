// What a snapshot is written from: rows of a table at one moment, by slice.
//
// Threads: any method from any thread, beside changes of the table. Of two calls, neither may be
//   for slices that the other has declared done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/row.h"
#include "base/status.h"
#include "table/schema.h"

namespace recis {

// The slice of an id, of `slices`.
inline uint32_t SliceOf(int64_t id, uint32_t slices) {
  return static_cast<uint32_t>(static_cast<uint64_t>(id) % slices);
}

// An id and where its record is.
struct RowOfId {
  int64_t id;
  Row row;
};

// By slice and then by id. REQUIRES: all are of slices [begin, end).
void SortBySlice(uint32_t slices, uint32_t begin, uint32_t end, std::vector<RowOfId>* rows);

class SnapshotSource {
 public:
  // What stays cached.
  static constexpr size_t kGatheredBytes = size_t{1} << 20;

  virtual ~SnapshotSource() = default;

  // Those of that moment, in the table's order.
  virtual const std::vector<Slot>& slots() const = 0;
  // How many rows each of `slices` has: counts (slices).
  virtual Status CountSlices(uint32_t slices, int64_t* counts) const = 0;
  // The rows of slices [begin, end), by slice and then by id.
  virtual Status List(uint32_t slices, uint32_t begin, uint32_t end,
                      std::vector<RowOfId>* rows) const = 0;
  // How many bytes of records are best gathered at a time.
  virtual size_t gathered_bytes() const { return kGatheredBytes; }
  // Slot k of row i goes to values[k] + i * slots()[k].bytes().
  virtual Status Gather(const RowOfId* rows, int64_t n,
                        const std::vector<std::byte*>& values) const = 0;
  // Slices [begin, end) are saved: nothing of them needs to be kept. REQUIRES: `slices` is the same
  // in all calls.
  virtual void Done(uint32_t slices, uint32_t begin, uint32_t end) = 0;
};

}  // namespace recis
