// The table: ids to records, and everything that is done to a record.
//
// An id is deduplicated (Numbering), looked up (Index), given a row if it is new and
// admitted (Directory) and its record copied out of wherever it lies (Records). Gradients
// gather in Gradient until an optimizer step applies them to the records.
//
// Threads: any method from any thread. Read(), Contains() and the other const methods run
//   side by side; the rest run alone. Results do not depend on the thread count.
// Invariants:
//  (1) index_ holds id -> row iff directory_ says row is live and belongs to id.
//  (2) A row that is not live has no record; in memory, one of zeros.
//  (3) A method that returns an error has changed nothing; or, if what it changed did not
//      fit in memory at once, the store is broken and goes on from its last commit.
//  (4) The tables of a store share its lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "device/kernels.h"
#include "device/memory.h"
#include "store/records.h"
#include "store/store.h"
#include "table/admission.h"
#include "table/batch.h"
#include "table/checks.h"
#include "table/cuttable.h"
#include "table/directory.h"
#include "table/gradient.h"
#include "table/index.h"
#include "table/rows_in_flight.h"
#include "table/schema.h"
#include "table/table_stats.h"

namespace recis {

// One block of one slot, as a strided view.
struct BlockView {
  std::shared_ptr<const Slab> slab;  // keeps the memory alive
  std::byte* data = nullptr;         // first element of the block's first row
  int64_t row_stride_bytes = 0;
};

class Table : public Cuttable, public StoreMember {
 public:
  static Result<std::shared_ptr<Table>> Make(TableOptions options);
  // A table in a store: new, or as of the opened epoch, or the one made before. `fronted`: it
  // stands behind a StoreFront, and nobody else may use it.
  static Result<std::shared_ptr<Table>> Make(TableOptions options, std::shared_ptr<Store> store,
                                             bool fronted = false);

  // ---- lookup -----------------------------------------------------------------------
  // `out` is (n, *shape); ids without a row read as zeros. `stream`: out is large and its
  // pages are warm, so it is written past the processor's cache.

  // Changes nothing but the counters.
  Status Read(const int64_t* ids, int64_t n, std::byte* out, bool stream) const;
  // A lookup that may admit; a null policy admits all. Policies and mean gradients see each of the
  // ids as `times` occurrences; null: one each. After a read error nothing has changed, except that
  // new ids in a batch larger than the hot budget may have been admitted.
  Result<std::shared_ptr<Batch>> Lookup(const int64_t* ids, int64_t n, AdmissionPolicy* policy,
                                        std::byte* out, bool stream,
                                        const uint32_t* times = nullptr);
  // The same in steps, for a policy that must not run under the table's lock: Find, ask,
  // AdmitFound, Gather.
  Result<std::shared_ptr<Batch>> Find(const int64_t* ids, int64_t n,
                                      const uint32_t* times = nullptr) const;
  // Gives rows to the ids of `batch` that have none and whose admit[i] is true.
  Status AdmitFound(Batch& batch, const bool* admit);
  Status Gather(Batch& batch, std::byte* out, bool stream) const;

  // Starts to make the rows of these ids hot, in the background. Nothing to do in memory.
  Status Prefetch(const int64_t* ids, int64_t n);
  // What it does there, if the table is in a store. Returns when they have been read.
  void PrefetchIds(const std::vector<int64_t>& ids);

  void Contains(const int64_t* ids, int64_t n, bool* out) const;
  // rows[i] of ids[i], or -1.
  void Rows(const int64_t* ids, int64_t n, int64_t* rows) const;

  // ---- change -----------------------------------------------------------------------

  // Admits the ids and overwrites their embeddings, (n, *shape); the last of repeated ids
  // wins. Returns the rows of the distinct ids.
  Result<std::shared_ptr<Batch>> Insert(const int64_t* ids, int64_t n, const std::byte* values);
  // Removes ids, their records, counters and pending gradients. Returns how many there were.
  Result<int64_t> Evict(const int64_t* ids, int64_t n);
  Status Clear();

  // ---- gradient ---------------------------------------------------------------------

  // Adds the gradient of a lookup's output, (batch.size, *shape), to the rows that ids have by
  // now. Those without a row, then or now, take nothing: row numbers make no difference.
  Status Accumulate(const Batch& batch, const void* values, DType dtype, bool mean, double divisor);
  // Adds to rows, repeats summed. Fails without effect if a row is not live.
  Status AccumulateRows(const int64_t* rows, int64_t n, const void* values, DType dtype);
  int64_t GradientRows() const;
  bool HasGradient() const { return GradientRows() > 0; }
  // Pending gradient: rows ascending, values in accumulators divided by `divisor`.
  // REQUIRES: room for GradientRows().
  int64_t ReadGradient(int64_t capacity, double divisor, int64_t* rows, std::byte* values) const;
  void ClearGradient();

  // ---- optimizer --------------------------------------------------------------------

  // Applies the pending gradient, which stays. `states` are slots of accumulator type.
  Status Step(const RuleParams& params, const std::vector<int>& states);

  // ---- slots ------------------------------------------------------------------------

  Result<int> AddSlot(Slot slot);
  std::vector<Slot> Slots() const;
  // values: (n, *slot shape) of the rows; fails without effect if a row is not live.
  Status ReadSlot(int slot, const int64_t* rows, int64_t n, std::byte* values) const;
  Status WriteSlot(int slot, const int64_t* rows, int64_t n, const std::byte* values);
  // Adds to an int64 slot, repeats summed. Fails without effect if a row is not live.
  Status AddToSlot(int slot, const int64_t* rows, int64_t n, const int64_t* values);
  // Fails if a row is not live, as the methods above do.
  Status CheckLive(const int64_t* rows, int64_t n) const;
  // Whole records, (n, record bytes), as they lie in memory.
  Status ReadRecords(const int64_t* rows, int64_t n, std::byte* records) const;
  // REQUIRES: distinct rows. Reads nothing that it overwrites, but for a cut.
  Status WriteRecords(const int64_t* rows, int64_t n, const std::byte* records);
  // Row order, [capacity, *slot shape]; rows that are not live read as zeros.
  Status ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const;
  // REQUIRES: the table is in memory.
  Result<BlockView> View(int slot, int64_t block) const;

  // ---- snapshots --------------------------------------------------------------------

  // Gives distinct ids these values of these slots: values[k] is (n, *slot shape). Ids without a
  // row are admitted.
  Status Restore(const int64_t* ids, int64_t n, const std::vector<int>& slots,
                 const std::vector<const std::byte*>& values);

  // ---- whole table ------------------------------------------------------------------

  int64_t size() const;
  // Rows in use, rounded up to whole blocks.
  int64_t Capacity() const;
  // Live rows ascending, with their ids. REQUIRES: room for size(); returns the count.
  int64_t IdsMap(int64_t capacity, int64_t* ids, int64_t* rows) const;
  TableStats Stats() const;
  bool in_store() const { return store_ != nullptr; }

  // ---- as a member of a store -------------------------------------------------------

  // The slots of a table in a store, constructed or not.
  static Result<std::vector<Slot>> SlotsIn(const Store& store, const std::string& name);

  int64_t IdOf(Row row) const override { return directory_.IdOf(row); }
  Tier& tier() override { return *records_->tier(); }
  void CollectValues(Values* values) override;

 private:
  Table(TableOptions options, std::shared_ptr<Store> store, bool fronted)
      : Cuttable(std::move(options), store ? &store->mutex() : nullptr),
        store_(std::move(store)),
        fronted_(fronted) {}
  static Result<std::shared_ptr<Table>> MakeEmpty(TableOptions options,
                                                  std::shared_ptr<Store> store, bool fronted);
  void PrefetchSome(const int64_t* ids, int64_t n);
  static Result<Schema> SchemaIn(const Store& store, const std::string& name, uint32_t number);
  Status CheckEmbedding(const Schema& stored) const;
  Status RecoverSchema(uint32_t number);
  Status RecoverRows(uint32_t number);

  Status Usable() const override { return records_->Usable(); }
  Result<Moment> BeginCut() override;
  const Directory& directory() const override { return directory_; }
  Status FindIds(const int64_t* ids, int64_t n, Row* rows) const override {
    FindRows(ids, n, rows);
    return {};
  }
  Status Locate(const Row* rows, int64_t n, Sources* sources) const override {
    return records_->Locate(rows, n, sources);
  }
  Status ReadAhead(const RowOfId* rows, int64_t n, Buffer* memory,
                   std::vector<const std::byte*>* records) const override;

  Status CheckBatch(int64_t n) const { return recis::CheckBatch(options_, n); }
  size_t embedding_bytes() const { return schema_.slots()[0].bytes(); }
  // Those below REQUIRE the lock, shared for const ones.
  Result<std::shared_ptr<Batch>> FindLocked(const int64_t* ids, int64_t n) const;
  void FindRows(const int64_t* ids, int64_t n, Row* rows) const;
  // The prefetch that is reading what a lookup of this batch would have to read; 0 if none is.
  uint64_t PrefetchOf(const Batch& batch) const;
  void CountLookups(int64_t n, int64_t hits) const;
  static void SetTimes(const uint32_t* times, Batch& batch);
  void CountBatch(const Batch& batch) const;
  void Refresh(Batch& batch) const;
  // `drawn`: embeddings start as drawn; else the caller writes them.
  Status AdmitLocked(Batch& batch, const bool* admit, bool drawn = true);
  Status ReadHot(const int64_t* ids, int64_t n, std::byte* out, bool stream) const;
  Status GatherLocked(const Batch& batch, std::byte* out, bool stream) const;
  void InitialiseRecords(const int64_t* ids, const Row* rows, int64_t n, bool drawn);
  RecordLayout LayoutOf(const Schema& schema) const;
  Status CheckRows(const int64_t* rows, int64_t n) const;
  Status CheckSlot(int slot) const { return recis::CheckSlot(options_, schema_, slot); }
  Status CopySlot(const Slot& slot, const Row* rows, int64_t n, std::byte* values) const;
  int64_t CapacityLocked() const;

  const std::shared_ptr<Store> store_;  // null in memory
  const bool fronted_;
  Schema schema_;                            // GUARDED_BY(mutex_)
  std::unique_ptr<Records> records_;         // GUARDED_BY(mutex_)
  Index index_;                              // GUARDED_BY(mutex_)
  Directory directory_;                      // GUARDED_BY(mutex_)
  std::unique_ptr<Gradient> gradient_;       // GUARDED_BY(mutex_)
  uint64_t eviction_count_ = 0;              // GUARDED_BY(mutex_): calls that freed rows
  mutable std::atomic<bool> viewed_{false};  // there was a View(), which may be written through
  RowsInFlight in_flight_;
  int64_t saved_freed_chunks_ = 0;  // GUARDED_BY(mutex_): values of the store
  mutable std::atomic<int64_t> lookups_{0}, hits_{0};
  int64_t admits_ = 0, refusals_ = 0, evictions_ = 0;  // GUARDED_BY(mutex_)
};

}  // namespace recis
