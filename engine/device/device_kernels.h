// What a table on a device does to its memory there: numbering ids, the index, rows, gradients; and
// sums of bags.
//
// Each method enqueues passes over ids or rows on a stream and returns without waiting for them.
// One source (device_*_impl.h) is compiled for each executor: the host's, which emulates a device,
// and CUDA's. Which one does the work does not show in the results, and neither does the order in
// which items are done: rows, sums and draws have the CPU table's bits.
//
// How many ids of a batch are distinct or new is known on the device alone. So arrays have room for
// as many as there can be, and counts stay in its memory.
//
// Threads: one at a time; what is enqueued on one stream is done in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/row.h"
#include "base/status.h"
#include "device/kernels.h"
#include "device/space.h"

namespace recis {

// ---- what lies in device memory -------------------------------------------------------

// Elements in chunks that never move.
struct ChunkView {
  std::byte* const* chunks = nullptr;  // on the device
  uint64_t inverse = 0;                // floor(2^64 / chunk_elements) + 1: exact for 32 bits
  uint32_t chunk_elements = 0;
  size_t element_bytes = 0;
};

// What is known of a row: the directory.
struct RowEntry {
  int64_t id;
  uint16_t live;
  uint16_t changed;   // made or written since this was last forgotten
  uint32_t gradient;  // 1 + its entry among the pending gradient; 0: none
};

// Counters of a table, on the device. The host knows bounds of them.
struct DeviceCounts {
  uint64_t end;               // one more than the highest row ever in use
  uint64_t freed;             // rows that wait to be used again
  uint64_t used_places;       // of the index, marked ones included
  uint64_t gradient_entries;  // dropped ones included
  uint64_t admits;
  static constexpr int kStripes = 256;
  uint64_t hits[kStripes];  // their sum counts: many threads at one counter would wait
};

// A bucket of the index: which of its places are used, by a digest of their ids.
struct alignas(32) IndexBucket {
  static constexpr int kPlaces = 16;
  static constexpr uint16_t kEmpty = 0;   // and the end of a search
  static constexpr uint16_t kMarked = 1;  // was evicted; of no use until the index is rebuilt
  uint16_t digests[kPlaces];
  int64_t ids[kPlaces];
  Row rows[kPlaces];
};

struct IndexView {
  IndexBucket* buckets = nullptr;
  uint32_t bucket_count = 0;
};

// All of a table.
struct DeviceTableView {
  IndexView index;
  ChunkView rows;     // RowEntry
  ChunkView freed;    // Row: a stack
  ChunkView records;  // record_bytes
  DeviceCounts* counts = nullptr;
  Row* gradient_rows = nullptr;  // row of each entry; kNoRow once dropped
  void* gradient_sums = nullptr;
};

// ---- arguments ------------------------------------------------------------------------

// Distinct ids in order of first occurrence. Arrays named scratch are of no use afterwards.
struct NumberingArgs {
  static constexpr uint32_t kNoPosition = 0xffffffffu;

  const int64_t* ids;  // (n)
  int64_t n;
  int64_t* distinct_ids;  // (n), out: as many as there are
  uint32_t* inverse;      // (n), out: the number of each position's id
  uint32_t* numbers;      // (n + 1), out: numbers[n] is how many distinct ids there are
  uint32_t* places;       // (PlacesFor(n)), scratch
  // A power of two, at least twice n.
  static uint32_t PlacesFor(int64_t n);
};

struct FindArgs {
  const int64_t* ids;
  const uint32_t* count;  // on the device: how many of them; null: all
  int64_t n;              // room
  Row* rows;              // (n), out: kNoRow where there is none
  uint64_t* places;       // (n), out: where in the index; null: of no interest
};

struct AdmitArgs {
  const int64_t* ids;  // (n), distinct
  const bool* admit;   // (n); null: all
  const uint32_t* count;
  int64_t n;
  Row* rows;                    // (n): kNoRow where an id has none; the new ones' are filled in
  uint32_t* ranks;              // (n + 1), out: ranks[n] is how many were admitted
  const std::byte* new_record;  // on the device
  size_t record_bytes;
  const DrawArgs* draw;  // on the host; null: embeddings are as in new_record
  DType dtype;
  int64_t dim;
};

struct GatherArgs {
  const Row* rows;          // kNoRow reads as zeros
  const uint32_t* inverse;  // (n): which of the rows; null: each position's own
  int64_t n;
  size_t offset, bytes;  // of what is copied, in a record
  std::byte* values;     // (n), bytes each
};

struct ScatterArgs {
  const Row* rows;        // (n)
  const uint32_t* count;  // on the device; null: n
  const uint32_t* last;   // (n): which of the values each takes; null: its own
  int64_t n;
  size_t offset, bytes;
  const std::byte* values;
};

struct EvictArgs {
  const Row* rows;         // (n): kNoRow where an id had none
  const uint64_t* places;  // (n), as found
  const uint32_t* count;
  int64_t n;
  uint32_t* ranks;  // (n + 1), out: ranks[n] is how many went
  size_t record_bytes;
};

struct AccumulateArgs {
  const Row* rows;          // (n)
  const Row* found;         // (n): those of the lookup; an id without one then or now takes nothing
  const uint32_t* inverse;  // (n)
  const uint32_t* count;
  int64_t n;
  const void* values;  // (n, dim)
  DType dtype;
  int64_t dim;
  bool mean;
  double divisor;
  // Scratch.
  uint32_t* positions = nullptr;         // (n)
  uint32_t* sorted_numbers = nullptr;    // (n)
  uint32_t* sorted_positions = nullptr;  // (n)
  uint32_t* offsets = nullptr;           // (n + 1)
  uint32_t* ranks = nullptr;             // (n + 1)
  uint32_t* targets = nullptr;           // (n)
  bool* fresh = nullptr;                 // (n)
  void* run_sums = nullptr;              // (SumArgs::RunsFor(n), dim) accumulators
};

struct SumArgs {
  SegmentSumArgs sums;             // its arrays are on the device
  const uint32_t* sorted_numbers;  // (n): the segment of each of the positions, ascending
  int64_t n;
  int64_t segments;       // room
  const uint32_t* count;  // on the device: how many segments; null: all
  void* run_sums;         // (RunsFor(n), dim) accumulators, scratch
  // Of those segments that have more positions than a run.
  static int64_t RunsFor(int64_t n) {
    return n <= SegmentSumArgs::kRun ? 0 : 2 * (n / SegmentSumArgs::kRun + 1);
  }
};

// Positions of bags by the embedding they hold: what its gradient is summed of.
struct BagsArgs {
  const uint32_t* inverse;  // (n): which embedding each position holds
  const uint32_t* bags;     // (n): whose it is
  const uint32_t* offsets;  // where each bag begins
  int64_t n;
  int64_t distinct;     // embeddings
  const void* weights;  // (n) accumulators; null: of means, one over a bag's positions
  DType accumulator;
  uint32_t* positions = nullptr;         // (n), scratch
  uint32_t* sorted_positions = nullptr;  // (n), scratch
  uint32_t* sorted_numbers = nullptr;    // (n), out: embeddings, ascending
  uint32_t* starts = nullptr;  // (distinct + 1), out: where each embedding begins among them
  uint32_t* places = nullptr;  // (n), out: the bag of each
  void* scale = nullptr;       // (n) accumulators, out: their weights; null: of no interest
};

struct StepArgs {
  int64_t n;  // entries at most
  int64_t dim;
  DType dtype;
  RecordPlaces places;
  const RuleParams* params;  // on the host
};

class DeviceKernels {
 public:
  virtual ~DeviceKernels() = default;

  virtual Status Number(const NumberingArgs& args, Stream stream) = 0;
  virtual Status Find(const DeviceTableView& table, const FindArgs& args, Stream stream) = 0;
  // Rows for the ids that have none and are admitted: freed ones first, last freed first, then new
  // ones; the last id gets the first. Their records are written. REQUIRES: room for all.
  virtual Status Admit(const DeviceTableView& table, const AdmitArgs& args, Stream stream) = 0;
  virtual Status Evict(const DeviceTableView& table, const EvictArgs& args, Stream stream) = 0;
  // Inserts all live rows below `end` into an index of empty buckets.
  virtual Status Rebuild(const DeviceTableView& table, int64_t end, Stream stream) = 0;

  // Find and Gather of embeddings at once, counting hits.
  virtual Status Read(const DeviceTableView& table, const int64_t* ids, int64_t n, size_t bytes,
                      std::byte* out, Stream stream) = 0;
  // Adds to the hits the positions (n) whose row is one.
  virtual Status CountHits(const DeviceTableView& table, const Row* rows, const uint32_t* inverse,
                           int64_t n, Stream stream) = 0;
  virtual Status Gather(const DeviceTableView& table, const GatherArgs& args, Stream stream) = 0;
  virtual Status Scatter(const DeviceTableView& table, const ScatterArgs& args, Stream stream) = 0;
  // last[k]: the last position that holds number k.
  virtual Status Last(const uint32_t* inverse, int64_t n, uint32_t* last, Stream stream) = 0;
  // Adds values (n, dim) to int64 elements of records, repeated rows summed.
  virtual Status AddTo(const DeviceTableView& table, const Row* rows, int64_t n, size_t offset,
                       int64_t dim, const int64_t* values, Stream stream) = 0;

  // The rows, int64 (n), as Row; *bad: the first position of one that is not in use, or
  // kNoPosition.
  virtual Status CheckRows(const DeviceTableView& table, const int64_t* rows, int64_t n, Row* out,
                           uint32_t* bad, Stream stream) = 0;
  // The first `capacity` live rows below `end`, ascending, and their ids. ranks (end + 1): scratch;
  // ranks[end] is how many there are.
  virtual Status ListRows(const DeviceTableView& table, int64_t end, uint32_t* ranks,
                          int64_t capacity, int64_t* ids, int64_t* rows, Stream stream) = 0;
  // Rows (n) as int64, kNoRow as -1; or whether each is one. Either may be null.
  virtual Status TellRows(const Row* rows, int64_t n, int64_t* wide, bool* there,
                          Stream stream) = 0;
  // rows (end): each row, or kNoRow if it is not live.
  virtual Status LiveRows(const DeviceTableView& table, int64_t end, Row* rows, Stream stream) = 0;
  // Notes that these rows are written; kNoRow may stand among them. count: see FindArgs.
  virtual Status MarkChanged(const DeviceTableView& table, const Row* rows, const uint32_t* count,
                             int64_t n, Stream stream) = 0;
  // The same of the rows that a step writes: n entries at most.
  virtual Status MarkStepped(const DeviceTableView& table, int64_t n, Stream stream) = 0;
  virtual Status ForgetChanges(const DeviceTableView& table, int64_t end, Stream stream) = 0;
  // Writes the records of the live rows below `end` in a new layout: the first `kept` bytes are
  // those of the old record, the rest are new_record's.
  virtual Status ChangeLayout(const DeviceTableView& table, const ChunkView& records,
                              const std::byte* new_record, size_t kept, int64_t end,
                              Stream stream) = 0;

  virtual Status Accumulate(const DeviceTableView& table, const AccumulateArgs& args,
                            Stream stream) = 0;
  virtual Status Step(const DeviceTableView& table, const StepArgs& args, Stream stream) = 0;
  // Live entries of the pending gradient, at most n, ascending by row: entries (n), the first of
  // *count. rows, entries_in, sorted_rows (n), ranks (n + 1): scratch.
  virtual Status SortGradient(const DeviceTableView& table, int64_t n, Row* rows,
                              uint32_t* entries_in, Row* sorted_rows, uint32_t* entries,
                              uint32_t* ranks, Stream stream) = 0;
  // Divides their sums into values (n, dim) of accumulator type.
  virtual Status ReadGradient(const DeviceTableView& table, const uint32_t* entries, int64_t n,
                              int64_t dim, DType accumulator, double divisor, std::byte* values,
                              Stream stream) = 0;
  // Drops all of it: at most n entries.
  virtual Status ClearGradient(const DeviceTableView& table, int64_t n, Stream stream) = 0;

  // Sums each segment as the CPU's kernels do.
  virtual Status Sum(const SumArgs& args, Stream stream) = 0;
  virtual Status SortBags(const BagsArgs& args, Stream stream) = 0;
};

// Those of the emulated device.
std::shared_ptr<DeviceKernels> HostKernels();
// The same with one thread a lane, for tests.
std::shared_ptr<DeviceKernels> LanesKernels();
// Those of the GPU of this number, which the space is of. Fails with kUnavailable in a build
// without CUDA.
Result<std::shared_ptr<DeviceKernels>> CudaKernels(std::shared_ptr<Space> space, int index);

}  // namespace recis
