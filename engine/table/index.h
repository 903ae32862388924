// The id index of one table: id -> row, open addressing.
//
// The top bits of the mixed hash cut it into partitions that grow one at a time, so there
// is no stop-the-world rehash, and that threads own, so nothing is locked on the probe
// path. A partition is an array of buckets of one cache line: five ids, their rows, which
// of them are used, and how many ids that belong here had to go further.
//
// Threads: Find() and Bytes() from any while no other method runs; Reserve(), Insert() and
//   Erase() from one, which spreads the partitions over the pool.
// Invariants:
//  (1) An id is in its home bucket or, when that was full, in the nearest following bucket
//      (around the end) that had room.
//  (2) `overflow` of a bucket counts the ids placed beyond it whose path crossed it, so a
//      probe may stop at the first bucket where it is zero. Erasing can leave none that is
//      zero, so it also stops once around. The count sticks at 255 until the partition grows.
//  (3) Every int64 may be an id: an unused place is known by `used`, not by a value.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/hash.h"
#include "base/row.h"
#include "base/status.h"
#include "device/array_pool.h"

namespace recis {

class Index {
 public:
  Index();

  // rows[i] = the row of ids[i], or kNoRow. On the calling thread alone: callers cut the
  // batch themselves.
  void Find(const int64_t* ids, int64_t n, Row* rows) const;

  // The same for a caller who has something to do with each block of rows while the
  // buckets of the next are on their way: use(first, rows, count), in order.
  static constexpr int kBlockIds = 16;
  template <class Use>
  void FindInBlocks(const int64_t* ids, int64_t n, Use use) const {
    Probes probes[2];
    Row rows[kBlockIds];
    const auto count_at = [n](int64_t first) {
      return static_cast<int>(std::min<int64_t>(kBlockIds, n - first));
    };
    if (n > 0) Fetch(ids, count_at(0), probes[0]);
    int half = 0;
    for (int64_t first = 0; first < n; first += kBlockIds, half ^= 1) {
      const int64_t next = first + kBlockIds;
      if (next < n) Fetch(ids + next, count_at(next), probes[half ^ 1]);
      Compare(ids + first, count_at(first), probes[half], rows);
      use(first, rows, count_at(first));
    }
  }

  // Makes room so that Insert() of these ids cannot fail.
  Status Reserve(const int64_t* ids, int64_t n);
  // REQUIRES: Reserve()d; the ids are distinct and absent.
  void Insert(const int64_t* ids, const Row* rows, int64_t n);
  // REQUIRES: the ids are distinct and present.
  void Erase(const int64_t* ids, int64_t n);

  void Clear();
  int64_t size() const;
  size_t Bytes() const;

 private:
  static constexpr int kPartitionBits = 8;
  static constexpr int kPartitions = 1 << kPartitionBits;
  static constexpr int kPlaces = 5;

  struct alignas(64) Bucket {
    int64_t ids[kPlaces];
    Row rows[kPlaces];
    uint8_t used;
    uint8_t overflow;
    uint16_t unused;
  };
  static_assert(sizeof(Bucket) == 64);

  // Zeroed buckets, from the heap while few and from the pool when many.
  class Buckets {
   public:
    static Result<Buckets> Make(uint32_t count, ArrayPool& pool);
    Bucket* data() const { return data_; }
    bool pooled() const { return pooled_.data() != nullptr; }

   private:
    Bucket* data_ = nullptr;
    std::unique_ptr<Bucket[]> heap_;
    ArrayPool::Array pooled_;
  };

  struct Partition {
    Buckets buckets;
    uint32_t bucket_count = 0;
    uint32_t size = 0;
    uint16_t growth = 0;  // how often it grew

    Bucket* Home(uint64_t hash) const { return buckets.data() + MapToRange(hash, bucket_count); }
    template <class B>  // Bucket or const Bucket
    B* Next(B* bucket) const {
      return bucket + 1 == buckets.data() + bucket_count ? buckets.data() : bucket + 1;
    }
    Row FindBeyond(const Bucket* home, int64_t id) const;
    void Insert(int64_t id, uint64_t hash, Row row);
    void Erase(int64_t id, uint64_t hash);
  };

  // Where a block of ids will be looked for.
  struct Probes {
    const Partition* partitions[kBlockIds];
    const Bucket* homes[kBlockIds];
  };
  void Fetch(const int64_t* ids, int count, Probes& probes) const;
  void Compare(const int64_t* ids, int count, const Probes& probes, Row* rows) const;
  static Row Match(const Bucket& bucket, int64_t id);
  static int PartitionOf(uint64_t hash) { return static_cast<int>(hash >> (64 - kPartitionBits)); }
  static uint32_t BucketsAfter(int partition, int growth);
  Status Grow(int partition, int64_t size);
  // Calls body(partition, id, hash, i) for each id, on the thread that owns its partition.
  template <class Body>
  void ForEachOwned(const int64_t* ids, int64_t n, Body body);

  ArrayPool pool_;
  std::array<Partition, kPartitions> partitions_;
};

}  // namespace recis
