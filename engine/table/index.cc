#include "table/index.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <mutex>
#include <new>
#include <numeric>
#include <string>

#include "base/thread_pool.h"

namespace recis {
namespace {

// A partition grows when this much of it is used. Buckets of five at 0.85 still answer
// nine probes in ten from their first cache line.
constexpr double kMaxLoad = 0.85;
// Half again: with max load 0.85 an index costs 15 to 23 bytes a row, 18 on average.
constexpr double kGrowth = 1.5;

constexpr int kLookahead = 16;  // buckets fetched ahead of an insert or erase
// Of 256 partitions: an index of 4 MiB is worth large pages.
constexpr size_t kPoolThreshold = size_t{16} << 10;
constexpr int64_t kGrain = 2048;  // ids below which threads do not pay

}  // namespace

Result<Index::Buckets> Index::Buckets::Make(uint32_t count, ArrayPool& pool) {
  Buckets made;
  const size_t bytes = sizeof(Bucket) * count;
  if (bytes >= kPoolThreshold) {
    Result<ArrayPool::Array> array = pool.Get(bytes);
    if (!array.ok()) return array.status();
    made.pooled_ = std::move(array.value());
    made.data_ = reinterpret_cast<Bucket*>(made.pooled_.data());
  } else {
    made.heap_.reset(new (std::nothrow) Bucket[count]{});
    if (made.heap_ == nullptr) return OutOfMemory("no memory for the id index");
    made.data_ = made.heap_.get();
  }
  return made;
}

Index::Index() = default;

// Partitions start at sizes spread over one growth step: they fill evenly, and would
// otherwise all grow in the same few batches.
uint32_t Index::BucketsAfter(int partition, int growth) {
  const double phase = static_cast<double>(partition) / kPartitions;
  return static_cast<uint32_t>(std::ceil(std::pow(kGrowth, growth + phase)));
}

// The row of `id` if `bucket` holds it.
Row Index::Match(const Bucket& bucket, int64_t id) {
  uint32_t match = 0;
  for (int i = 0; i < kPlaces; ++i) match |= static_cast<uint32_t>(bucket.ids[i] == id) << i;
  match &= bucket.used;
  return match == 0 ? kNoRow : bucket.rows[std::countr_zero(match)];
}

Row Index::Partition::FindBeyond(const Bucket* home, int64_t id) const {
  for (const Bucket* bucket = home; bucket->overflow != 0;) {
    bucket = Next(bucket);
    if (bucket == home) break;
    const Row row = Match(*bucket, id);
    if (row != kNoRow) return row;
  }
  return kNoRow;
}

void Index::Partition::Insert(int64_t id, uint64_t hash, Row row) {
  constexpr uint8_t kFull = (1 << kPlaces) - 1;
  Bucket* bucket = Home(hash);
  for (; bucket->used == kFull; bucket = Next(bucket)) {
    bucket->overflow += bucket->overflow != 255;
  }
  const int place = std::countr_one(bucket->used);
  bucket->ids[place] = id;
  bucket->rows[place] = row;
  bucket->used |= static_cast<uint8_t>(1 << place);
  ++size;
}

void Index::Partition::Erase(int64_t id, uint64_t hash) {
  for (Bucket* bucket = Home(hash);; bucket = Next(bucket)) {
    for (int i = 0; i < kPlaces; ++i) {
      if (bucket->ids[i] == id && (bucket->used >> i & 1)) {
        bucket->used &= static_cast<uint8_t>(~(1 << i));
        --size;
        return;
      }
    }
    // The id was placed beyond this bucket, so it is one of those counted here.
    bucket->overflow -= bucket->overflow != 255;
  }
}

void Index::Fetch(const int64_t* ids, int count, Probes& probes) const {
  for (int k = 0; k < count; ++k) {
    const uint64_t hash = MixId(ids[k]);
    probes.partitions[k] = &partitions_[PartitionOf(hash)];
    probes.homes[k] = probes.partitions[k]->Home(hash);
    __builtin_prefetch(probes.homes[k]);
  }
}

void Index::Compare(const int64_t* ids, int count, const Probes& probes, Row* rows) const {
  for (int k = 0; k < count; ++k) {
    const Bucket* home = probes.homes[k];
    rows[k] = home == nullptr ? kNoRow : Match(*home, ids[k]);
    if (rows[k] == kNoRow && home != nullptr && home->overflow != 0) [[unlikely]] {
      rows[k] = probes.partitions[k]->FindBeyond(home, ids[k]);
    }
  }
}

void Index::Find(const int64_t* ids, int64_t n, Row* rows) const {
  FindInBlocks(ids, n, [&](int64_t first, const Row* found, int count) {
    std::copy_n(found, count, rows + first);
  });
}

Status Index::Grow(int number, int64_t size) {
  Partition& old = partitions_[number];
  Partition grown;
  grown.growth = old.growth;
  do {
    grown.bucket_count = BucketsAfter(number, grown.growth++);
  } while (grown.bucket_count * (kMaxLoad * kPlaces) < static_cast<double>(size));
  Result<Buckets> buckets = Buckets::Make(grown.bucket_count, pool_);
  if (!buckets.ok()) return buckets.status();
  grown.buckets = std::move(buckets.value());
  // A bucket follows from the hash by a monotone map, so both arrays are walked in order.
  for (uint32_t b = 0; b < old.bucket_count; ++b) {
    const Bucket& bucket = old.buckets.data()[b];
    for (int i = 0; i < kPlaces; ++i) {
      if (bucket.used >> i & 1) grown.Insert(bucket.ids[i], MixId(bucket.ids[i]), bucket.rows[i]);
    }
  }
  old = std::move(grown);
  return {};
}

Status Index::Reserve(const int64_t* ids, int64_t n) {
  std::array<int64_t, kPartitions> wanted{};
  for (int64_t i = 0; i < n; ++i) ++wanted[PartitionOf(MixId(ids[i]))];
  std::array<int, kPartitions> tight;
  int count = 0;
  for (int p = 0; p < kPartitions; ++p) {
    wanted[p] += partitions_[p].size;
    if (partitions_[p].bucket_count * (kMaxLoad * kPlaces) < static_cast<double>(wanted[p])) {
      tight[count++] = p;
    }
  }
  std::mutex mutex;
  Status first_error;  // GUARDED_BY(mutex)
  const int64_t grain = std::max<int64_t>(kGrain * count / std::max<int64_t>(size(), 1), 1);
  ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Status status = Grow(tight[i], wanted[tight[i]]);
      if (!status.ok()) {
        std::lock_guard<std::mutex> lock(mutex);
        first_error = std::move(status);
        return;
      }
    }
  });
  return first_error;
}

template <class Body>
void Index::ForEachOwned(const int64_t* ids, int64_t n, Body body) {
  // Every owner reads all ids and works on those in its partitions: two nanoseconds an id,
  // and no sorting or locking. So there are no more owners than threads.
  const int64_t owners = std::clamp<int64_t>(n / kGrain, 1, ThreadCount());
  ParallelFor(owners, 1, [&](int64_t first_owner, int64_t last_owner) {
    const int64_t begin = kPartitions * first_owner / owners;
    const int64_t end = kPartitions * last_owner / owners;
    constexpr int kRing = 2 * kLookahead;
    int64_t ring[kRing];
    int64_t head = 0, tail = 0;
    const auto work = [&] {
      const int64_t i = ring[tail++ % kRing];
      const uint64_t hash = MixId(ids[i]);
      body(partitions_[PartitionOf(hash)], i, hash);
    };
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t hash = MixId(ids[i]);
      const int number = PartitionOf(hash);
      if (number < begin || number >= end) continue;
      __builtin_prefetch(partitions_[number].Home(hash), 1);
      ring[head++ % kRing] = i;
      if (head - tail == kLookahead) work();
    }
    while (tail < head) work();
  });
}

void Index::Insert(const int64_t* ids, const Row* rows, int64_t n) {
  ForEachOwned(ids, n, [&](Partition& partition, int64_t i, uint64_t hash) {
    partition.Insert(ids[i], hash, rows[i]);
  });
}

void Index::Erase(const int64_t* ids, int64_t n) {
  ForEachOwned(ids, n, [&](Partition& partition, int64_t i, uint64_t hash) {
    partition.Erase(ids[i], hash);
  });
}

void Index::Clear() {
  for (Partition& partition : partitions_) partition = Partition();
}

int64_t Index::size() const {
  return std::accumulate(partitions_.begin(), partitions_.end(), int64_t{0},
                         [](int64_t sum, const Partition& p) { return sum + p.size; });
}

size_t Index::Bytes() const {
  size_t bytes = sizeof(*this) + pool_.bytes();
  for (const Partition& partition : partitions_) {
    if (!partition.buckets.pooled()) bytes += partition.bucket_count * sizeof(Bucket);
  }
  return bytes;
}

}  // namespace recis
