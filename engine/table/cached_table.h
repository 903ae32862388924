// A table in a store whose hottest records are on a device.
//
// It has the results of Table, bit for bit, whatever there is room for on the device. A Table in
// the store decides which ids have which rows; it has the policy's answers, draws new records,
// commits and is cut. A DeviceCache has the records of some rows. A lookup finds on the device what
// is there, the table answers the rest, and as many of these as there is room for are promoted. So
// a batch of more rows than fit costs time and nothing else.
//
// Pointers to ids, rows and values are to memory of the device; `times` and `admit` are the host's.
// Rows are the table's. A lookup waits for the device, since a miss must be answered by the table.
// It does not if its ids were prefetched and their rows are there, nor do gradients and steps of
// such rows, nor reading while the device has all rows.
//
// The table works on a stream of its own, in the order of calls: each follows what its caller's
// stream has so far, and that goes on after it. A prefetch follows nothing but the table's calls,
// so that rows come to the device while the caller's stream computes.
//
// Threads: any method from any thread; they run one at a time, and the store's background thread
//   promotes in between.
// Invariants:
//  (1) The record of a row is true on the device if it is there, else in the table.
//  (2) Nobody else uses the table; what a commit or a cut of it has is all there is.
//  (3) What fails changes nothing, but for what Table says of changes that do not fit in memory.
//      What the device has no memory for, the table answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "base/yield.h"
#include "device/device_memory.h"
#include "store/store.h"
#include "table/admission.h"
#include "table/batch.h"
#include "table/device_cache.h"
#include "table/table.h"

namespace recis {

// What one lookup found.
struct CachedBatch {
  Result<std::shared_ptr<Batch>> OnHost() const { return batch; }
  Result<int64_t> CountDistinct() const { return batch->distinct; }
  // Makes `batch`, in frames as yet. Waits for the stream.
  Status CopyToHost(Stream stream);

  int64_t size = 0;              // ids asked for, repeats included
  std::shared_ptr<Batch> batch;  // in rows of the table, in the host's memory

  // The rest is the table's own, GUARDED_BY its lock.
  struct Place {
    Row row;      // the id's by now; kNoRow if it has none, or had none when it was looked up
    Frame frame;  // kNoFrame if the record is in the table
  };
  std::shared_ptr<DeviceBatch> on_device;  // in frames
  mutable std::vector<Place> places;       // (distinct), true as of `moves`
  mutable uint64_t moves = 0;
  uint64_t evictions = 0;  // the table's count when the rows of `batch` were true
};

// The ids of a prefetch, for the one lookup of them that may follow.
class Prefetched {
 private:
  friend class CachedTable;
  // stream: that has the batch's numbers.
  Prefetched(std::shared_ptr<CachedBatch> batch, Stream stream)
      : batch_(std::move(batch)), stream_(stream) {}
  // Once, by who comes first; others wait for that. Nobody needs the table's lock.
  Status CopyToHost();

  const std::shared_ptr<CachedBatch> batch_;
  const Stream stream_;
  std::once_flag copying_;
  Status copied_;
  bool placed_ = false;     // its places were told. GUARDED_BY the table's lock
  bool looked_up_ = false;  // GUARDED_BY the table's lock
};

class CachedTable : public StoreFront, public std::enable_shared_from_this<CachedTable> {
 public:
  // New, or as of the opened epoch, or the one made before. `bytes`: of records on the device; one
  // block at least.
  static Result<std::shared_ptr<CachedTable>> Make(TableOptions options,
                                                   const std::shared_ptr<Store>& store,
                                                   const std::shared_ptr<Device>& device,
                                                   int64_t bytes);

  // ---- lookup: as in Table ------------------------------------------------------------

  // Moves nothing.
  Status Read(const int64_t* ids, int64_t n, std::byte* out) const;
  Result<std::shared_ptr<CachedBatch>> Lookup(const int64_t* ids, int64_t n,
                                              AdmissionPolicy* policy, std::byte* out,
                                              const uint32_t* times = nullptr);
  Result<std::shared_ptr<CachedBatch>> Find(const int64_t* ids, int64_t n,
                                            const uint32_t* times = nullptr) const;
  Status AdmitFound(CachedBatch& batch, const bool* admit);
  Status Gather(CachedBatch& batch, std::byte* out) const;
  // Starts promoting, in the background, the rows of these ids from wherever they are. Those of the
  // last lookup are not spilled for them. Waits for nothing.
  Result<std::shared_ptr<Prefetched>> Prefetch(const int64_t* ids, int64_t n);
  // Of prefetched ids, once. Waits for the device only if their rows are not there yet.
  Result<std::shared_ptr<CachedBatch>> Lookup(Prefetched& prefetched, AdmissionPolicy* policy,
                                              std::byte* out);
  Status Contains(const int64_t* ids, int64_t n, bool* out) const;
  Status Rows(const int64_t* ids, int64_t n, int64_t* rows) const;

  // ---- change -------------------------------------------------------------------------

  Result<std::shared_ptr<CachedBatch>> Insert(const int64_t* ids, int64_t n,
                                              const std::byte* values);
  Result<int64_t> Evict(const int64_t* ids, int64_t n);
  Status Clear();
  Status Restore(const int64_t* ids, int64_t n, const std::vector<int>& slots,
                 const std::vector<const std::byte*>& values);

  // ---- gradient and optimizer -----------------------------------------------------------

  Status Accumulate(const CachedBatch& batch, const void* values, DType dtype, bool mean,
                    double divisor);
  Status AccumulateRows(const int64_t* rows, int64_t n, const void* values, DType dtype);
  Result<int64_t> GradientRows() const;
  Result<bool> HasGradient() const;
  Result<int64_t> ReadGradient(int64_t capacity, double divisor, int64_t* rows,
                               std::byte* values) const;
  Status ClearGradient();
  Status Step(const RuleParams& params, const std::vector<int>& states);

  // ---- slots ----------------------------------------------------------------------------

  Result<int> AddSlot(Slot slot);
  std::vector<Slot> Slots() const { return table_->Slots(); }
  Status ReadSlot(int slot, const int64_t* rows, int64_t n, std::byte* values) const;
  Status WriteSlot(int slot, const int64_t* rows, int64_t n, const std::byte* values);
  Status AddToSlot(int slot, const int64_t* rows, int64_t n, const int64_t* values);
  Status ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const;

  // ---- snapshots --------------------------------------------------------------------------

  Status Track(bool on);
  Result<std::shared_ptr<Cut>> TakeCut(bool delta, int64_t pool_bytes,
                                       int64_t listed_rows = Cut::kListedRows);

  // ---- whole table ----------------------------------------------------------------------

  int64_t size() const { return table_->size(); }
  int64_t Capacity() const { return table_->Capacity(); }
  Result<int64_t> IdsMap(int64_t capacity, int64_t* ids, int64_t* rows) const;
  Result<TableStats> Stats() const;
  CacheStats OfCache() const;
  const TableOptions& options() const { return table_->options(); }

  Result<std::unique_lock<std::mutex>> WriteBackAndHold() override;

 private:
  class Lock {
   public:
    explicit Lock(const CachedTable& table, OnOwnStream::For whom = OnOwnStream::For::kCaller)
        : lock_(table.mutex_), on_(*table.device_, whom) {}
    std::unique_lock<std::mutex> Release() { return std::move(lock_); }

   private:
    Yielding<std::unique_lock<std::mutex>> lock_;
    const OnOwnStream on_;
  };
  using Indices = std::vector<uint32_t>;  // of distinct ids or of positions of a batch

  CachedTable(std::shared_ptr<Table> table, std::shared_ptr<Store> store,
              std::shared_ptr<Device> device, int64_t bytes)
      : table_(std::move(table)),
        store_(std::move(store)),
        device_(std::move(device)),
        bytes_(bytes),
        cache_(table_, device_, bytes) {}

  // Those below REQUIRE the lock.
  Status Usable() const;
  Status Changeable() const;
  size_t embedding_bytes() const { return cache_.schema().slots()[0].bytes(); }
  // Changes whenever a row may have gone elsewhere.
  uint64_t Moves() const { return cache_.moves() + evictions_; }

  // Copies to and from the device, and waits.
  template <class T>
  Result<std::vector<T>> OnHost(const T* values, int64_t n) const {
    std::vector<T> host(static_cast<size_t>(n));
    RECIS_RETURN_IF_ERROR(device_->Fetch(values, host.size() * sizeof(T), host.data()));
    return host;
  }
  template <class T>
  Status ToDevice(const T* values, int64_t n, T* to) const {
    RECIS_RETURN_IF_ERROR(
        device_->space->Copy(to, values, static_cast<size_t>(n) * sizeof(T), device_->stream));
    return device_->space->Wait(device_->stream);
  }

  // Numbers ids and looks for them among what is cached. Waits for nothing.
  Result<std::shared_ptr<CachedBatch>> StartFinding(const int64_t* ids, int64_t n,
                                                    const uint32_t* times) const;
  // Makes rows of what the device has found; those of ids that are not cached are kNoRow.
  // REQUIRES: it was copied to the host, and no places were told.
  void TellPlaces(CachedBatch& batch) const;
  // All of that.
  Result<std::shared_ptr<CachedBatch>> FindOnDevice(const int64_t* ids, int64_t n,
                                                    const uint32_t* times) const;
  // REQUIRES: it was copied to the host.
  CachedBatch& PlacedBatch(Prefetched& prefetched) const;
  // The distinct ids whose records are not on the device.
  static Indices NotCached(const CachedBatch& batch);
  static std::vector<int64_t> IdsOf(const CachedBatch& batch, const Indices& which);
  // Of those of `which` that have one.
  static std::vector<RowOfId> RowsOf(const CachedBatch& batch, const Indices& which);
  static void AddFrames(const CachedBatch& batch, std::vector<Frame>* frames);
  static void SetRow(CachedBatch& batch, uint32_t i, Row row);
  // The rows of `batch` are those of now, wherever they may be.
  void RowsAreTrue(CachedBatch& batch) const {
    batch.evictions = evictions_;
    batch.moves = 0;
  }
  void FindInTable(CachedBatch& batch, const Indices& which) const;
  void Count(const CachedBatch& batch) const;
  // Makes its places true, whatever has moved since.
  Status Place(const CachedBatch& batch) const;
  // Makes it what a lookup of its ids would find on the device now.
  Status Refresh(CachedBatch& batch) const;
  Status PlaceOnDevice(const CachedBatch& batch) const;
  // values: embeddings of what is missing, (missing, *shape).
  Status AskTable(CachedBatch& batch, const Indices& missing, AdmissionPolicy* policy,
                  std::byte* values);
  Status Promote(CachedBatch& batch, const Indices& missing);
  // Looks up what was found.
  Status Answer(CachedBatch& batch, AdmissionPolicy* policy, std::byte* out);
  // What a prefetch does in the background. Takes the lock.
  void PrefetchRows(Prefetched& prefetched);
  // Embeddings of what is cached, and those in `values` of what else there is of `others`.
  Status GatherFrom(const CachedBatch& batch, const Indices& others, const std::byte* values,
                    std::byte* out) const;
  // The part of the batch whose records are in the table, and its positions.
  static Batch PartInTable(const CachedBatch& batch, Indices* positions);
  // Of any number, whether or not it is a row.
  Frame FrameOf(int64_t row) const;
  // The distinct frames of those that have one.
  std::vector<Frame> FramesOf(const std::vector<int64_t>& rows) const;
  // Rows and a value of each, of the host: those of the table, and frames.
  struct RowValues {
    struct Part {
      std::vector<int64_t> rows;
      std::vector<std::byte> values;
    };
    Part in_table, on_device;
  };
  // Takes apart what is on the device: rows (n), all of them live, and values (n, bytes).
  Result<RowValues> ByPlace(const int64_t* rows, int64_t n, const std::byte* values,
                            size_t bytes) const;
  // Changes slots of both parts, or of neither. change: called with each table, rows of it, how
  // many, and their values.
  template <class Change>
  Status ChangeRows(const RowValues& found, Change&& change);
  // The table has all there is of these rows; and of these ids.
  Status DropRows(const std::vector<int64_t>& rows) { return cache_.Drop(FramesOf(rows)); }
  Status DropIds(const std::vector<int64_t>& ids);
  // The table has the records of these rows; and of all.
  Status WriteBack(const std::vector<int64_t>& rows) const {
    return cache_.WriteBack(FramesOf(rows));
  }
  // Goes on with these, as DeviceCache::Use() does, and with the counts there are.
  void UseFrames(DeviceCache::Frames frames);
  Status WriteBackAll() const { return cache_.WriteBack(cache_.rows().Dirty()); }

  const std::shared_ptr<Table> table_;
  const std::shared_ptr<Store> store_;
  const std::shared_ptr<Device> device_;
  const int64_t bytes_;
  mutable std::mutex mutex_;  // guards all below, before the store's
  mutable DeviceCache cache_;
  std::vector<Row> used_;                   // by the last lookup; distinct
  uint64_t evictions_ = 0;                  // calls that freed rows
  mutable int64_t lookups_ = 0, hits_ = 0;  // besides those that the cache's table counts
};

}  // namespace recis
