// A table on a device: index, directory, records and pending gradient lie in its memory.
//
// It has the results of Table, bit for bit: the same rows for the same ids, the same draws, sums
// and steps. Pointers to ids, rows and values are to memory of the device; what returns a count
// waits for it. A lookup without a policy waits for nothing: how many of its ids are distinct or
// new is known on the device alone, and the host keeps bounds. When a bound comes near what is
// reserved, the host asks how many rows there are, and reserves ahead.
//
// While there is a cut, a change waits until the device has copied what it is about to overwrite.
// Lookups do not, and neither does noting what changes.
//
// Threads: any method from any thread; they run one at a time, and the device works on what they
//   enqueue in that order, each on the stream that its thread uses (UseStream).
// Invariants:
//  (1) The index holds id -> row iff the row's entry is live and has that id.
//  (2) A row that is not live has a record of zeros.
//  (3) Rows below most_rows_, and places for most_places_ ids, are reserved; and there are no more.
//  (4) A method that returns an error has changed nothing, unless the device itself failed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "device/device_memory.h"
#include "device/device_reader.h"
#include "table/admission.h"
#include "table/checks.h"
#include "table/cuttable.h"
#include "table/device_batch.h"
#include "table/directory.h"
#include "table/schema.h"
#include "table/table_stats.h"

namespace recis {

class DeviceTable : public Cuttable {
 public:
  // `limit`: it never has more rows, and so takes no memory for more.
  static Result<std::shared_ptr<DeviceTable>> Make(TableOptions options,
                                                   std::shared_ptr<Device> device,
                                                   int64_t limit = kNoRow);

  // ---- lookup: as in Table ------------------------------------------------------------

  Status Read(const int64_t* ids, int64_t n, std::byte* out) const;
  // `times` (n) is the host's. With a policy the device is waited for.
  Result<std::shared_ptr<DeviceBatch>> Lookup(const int64_t* ids, int64_t n,
                                              AdmissionPolicy* policy, std::byte* out,
                                              const uint32_t* times = nullptr);
  Result<std::shared_ptr<DeviceBatch>> Find(const int64_t* ids, int64_t n,
                                            const uint32_t* times = nullptr) const;
  // admit: the host's, as many as there are distinct ids.
  // For who counts lookups on his own.
  Result<std::shared_ptr<DeviceBatch>> FindUncounted(const int64_t* ids, int64_t n,
                                                     const uint32_t* times) const;
  Status AdmitFound(DeviceBatch& batch, const bool* admit);
  Status Gather(DeviceBatch& batch, std::byte* out) const;
  Status Contains(const int64_t* ids, int64_t n, bool* out) const;
  Status Rows(const int64_t* ids, int64_t n, int64_t* rows) const;

  // ---- change -------------------------------------------------------------------------

  Result<std::shared_ptr<DeviceBatch>> Insert(const int64_t* ids, int64_t n,
                                              const std::byte* values);
  Result<int64_t> Evict(const int64_t* ids, int64_t n);
  Status Clear();
  Status Restore(const int64_t* ids, int64_t n, const std::vector<int>& slots,
                 const std::vector<const std::byte*>& values);

  // Whole records, (n, record bytes), as they lie in memory. Of distinct ids, which get rows if
  // they have none; and of rows.
  Result<std::shared_ptr<DeviceBatch>> RestoreRecords(const int64_t* ids, int64_t n,
                                                      const std::byte* records);
  Status ReadRecords(const int64_t* rows, int64_t n, std::byte* records) const;

  // ---- gradient and optimizer -----------------------------------------------------------

  Status Accumulate(const DeviceBatch& batch, const void* values, DType dtype, bool mean,
                    double divisor);
  Status AccumulateRows(const int64_t* rows, int64_t n, const void* values, DType dtype);
  Result<int64_t> GradientRows() const;
  // Whether there are any. Waits for the device only if the answer depends on what was refused or
  // evicted.
  Result<bool> HasGradient() const;
  Result<int64_t> ReadGradient(int64_t capacity, double divisor, int64_t* rows,
                               std::byte* values) const;
  Status ClearGradient();
  Status Step(const RuleParams& params, const std::vector<int>& states);

  // ---- slots ----------------------------------------------------------------------------

  Result<int> AddSlot(Slot slot);
  std::vector<Slot> Slots() const;
  Status ReadSlot(int slot, const int64_t* rows, int64_t n, std::byte* values) const;
  Status WriteSlot(int slot, const int64_t* rows, int64_t n, const std::byte* values);
  Status AddToSlot(int slot, const int64_t* rows, int64_t n, const int64_t* values);
  // So that those of n rows need no more memory, but for a cut's.
  Status ReserveChange(int64_t n);
  Status ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const;

  // ---- whole table ----------------------------------------------------------------------

  Result<int64_t> size() const;
  Result<int64_t> Capacity() const;
  Result<int64_t> IdsMap(int64_t capacity, int64_t* ids, int64_t* rows) const;
  Result<TableStats> Stats() const;

 private:
  // The table's lock, with the device on the stream of who holds it.
  class Lock {
   public:
    explicit Lock(const DeviceTable& table) : Lock(table, WriteLock(table.mutex_)) {}
    Lock(const DeviceTable& table, WriteLock lock) : lock_(std::move(lock)) {
      table.device_->GoOnAt(StreamInUse());
    }

   private:
    const WriteLock lock_;
  };
  // The part of DeviceCounts that bounds depend on.
  struct Counts {
    uint64_t end, freed, used_places, gradient_entries, admits;
    int64_t live_rows() const { return static_cast<int64_t>(end - freed); }
  };

  DeviceTable(TableOptions options, std::shared_ptr<Device> device, Schema schema, int64_t limit);
  // Of one chunk of records: whole blocks, so that a block is contiguous.
  static uint32_t SlabRows(const TableOptions& options, size_t record_bytes);
  // Those below REQUIRE the lock.
  DeviceTableView view() const;
  Stream stream() const { return device_->stream; }
  DeviceKernels& kernels() const { return *device_->kernels; }
  size_t embedding_bytes() const { return schema_.slots()[0].bytes(); }
  // Memory for arrays of the call; the last call's is of no use any more.
  Result<DeviceArrays> Scratch(size_t bytes) const;
  // Asks the device how many there are, and makes the bounds exact.
  Result<Counts> Count() const;
  // The live entries of the pending gradient, ascending by row, in scratch: sorted_gradient_.
  Result<int64_t> LiveEntries() const;
  Status ReserveRows(int64_t count);
  Status ReserveIndex(int64_t live_rows, int64_t count);
  Status ReserveGradient(int64_t count);
  Status SetNewRecord(const Schema& schema, DeviceMemory* record) const;
  Result<std::shared_ptr<DeviceBatch>> FindLocked(const int64_t* ids, int64_t n,
                                                  const uint32_t* times) const;
  Status FindRows(const DeviceBatch& batch, Row* rows) const;
  Status FindBatchRows(DeviceBatch& batch) const;
  // admit: null, or on the device.
  Status AdmitLocked(DeviceBatch& batch, const bool* admit, bool drawn = true);
  Status Ask(AdmissionPolicy& policy, DeviceBatch& batch);
  Status AdmitMasked(DeviceBatch& batch, const bool* admit, int64_t distinct);
  Status CountBatch(const DeviceBatch& batch) const;
  Status GatherLocked(const DeviceBatch& batch, std::byte* out) const;
  // The rows, int64, as Row: (n), in `arrays`.
  Result<const Row*> CheckRows(const int64_t* rows, int64_t n, DeviceArrays* arrays) const;
  static size_t CheckRowsBytes(int64_t n);
  // Scratch of NumberBytes() is taken from `arrays`.
  Status Number(const int64_t* ids, const DeviceNumbers& numbers, DeviceArrays* arrays) const;
  static size_t NumberBytes(int64_t n);
  // Rows that may repeat: the distinct ones, all of them in use.
  struct DistinctRows {
    DeviceNumbers numbers;
    const Row* rows;
  };
  Result<DistinctRows> DistinctOf(const int64_t* rows, int64_t n, DeviceArrays* arrays) const;
  static size_t DistinctBytes(int64_t n);
  // found: the rows there were at the lookup.
  Status AccumulateLocked(const DeviceNumbers& numbers, const Row* rows, const Row* found,
                          const void* values, DType dtype, bool mean, double divisor,
                          DeviceArrays* arrays);
  size_t AccumulateBytes(int64_t n) const;
  int64_t RunSumsBytes(int64_t n) const;
  static size_t WriteBytes(int64_t n);
  Status CopySlot(const Slot& slot, const int64_t* rows, int64_t n, std::byte* values) const;
  // Of the positions that hold a number the last one's value goes to its row.
  Status ScatterLast(const Row* rows, const DeviceNumbers& numbers, const Slot& slot,
                     const std::byte* values, DeviceArrays* arrays);

  // ---- as a table of which cuts are taken -----------------------------------------------

  Status ForgetChanges() override;
  Result<Moment> BeginCut() override;
  void CutEnded() override { at_cut_.reset(); }
  const Directory& directory() const override { return at_cut_->directory; }
  Status FindIds(const int64_t* ids, int64_t n, Row* rows) const override;
  Status Locate(const Row* rows, int64_t n, Sources* sources) const override;
  Status ReadAhead(const RowOfId* rows, int64_t n, Buffer* memory,
                   std::vector<const std::byte*>* records) const override;

  // Copies the directory, and tells which rows are marked as changed.
  Status CopyDirectory(DeviceReader& reader, Directory* directory, RowSet* changed) const;
  // Before the records of these rows are written or freed; kNoRow may stand among them.
  Status BeforeChangeOf(const Row* rows, const uint32_t* count, int64_t n);
  Status BeforeStep();
  // Adds ids that have lost their rows: those of `ids` that had one, or all.
  Status NoteFreed(const int64_t* ids, const Row* rows, const uint32_t* count);
  Status NoteAllFreed(int64_t live_rows);

  // What there is for a cut of the table.
  struct AtCut {
    Directory directory;  // as it was
    size_t record_bytes;  // of a record, padded
    std::unique_ptr<DeviceReader> for_changes;
    std::mutex saving;                         // before the table's lock
    std::unique_ptr<DeviceReader> for_savers;  // GUARDED_BY(saving)
  };

  const std::shared_ptr<Device> device_;
  const int64_t limit_;  // of rows
  // The lock guards all below.
  std::unique_ptr<AtCut> at_cut_;  // while there is a cut
  Schema schema_;
  DeviceMemory new_record_;
  DeviceMemory counts_;
  DeviceMemory buckets_;
  uint32_t bucket_count_ = 0;
  DeviceChunks rows_, freed_, records_;
  DeviceMemory gradient_rows_, gradient_sums_;
  int64_t gradient_room_ = 0;  // entries
  mutable DeviceMemory scratch_;
  struct SortedGradient {
    const Row* rows;
    const uint32_t* entries;
  };
  mutable SortedGradient sorted_gradient_{};
  // Bounds of what the device has.
  mutable int64_t most_rows_ = 0;
  mutable int64_t most_places_ = 0;
  mutable int64_t most_entries_ = 0;
  bool surely_has_gradient_ = false;
  uint64_t eviction_count_ = 0;  // calls that freed rows
  mutable int64_t lookups_ = 0;
  int64_t refusals_ = 0, evictions_ = 0;
};

}  // namespace recis
