// The id index of a table on a device: id -> row, open addressing in buckets of 16 places.
//
// A tile of 16 lanes looks at the digests of a bucket at once: 32 bytes, one access. Only ids whose
// digest agrees are read. A search ends at the first bucket with an empty place.
//
// Invariants:
//  (1) An id is in the first bucket, from its home on and around the end, that had an empty place
//      when it was inserted; and no place becomes empty again but by a rebuild.
//  (2) One pass finds, inserts or marks, and does nothing else. Ids that are inserted are distinct
//      and absent, so that two tiles may want one place but never for one id.
//  (3) Every int64 may be an id: an unused place is known by its digest.
#pragma once

#include "base/hash.h"
#include "device/atomic.h"
#include "device/device_kernels.h"

namespace recis {
namespace {

// The place of an id: 16 times its bucket and the lane.
inline constexpr uint64_t kNoPlace = ~uint64_t{0};

RECIS_DEVICE inline uint16_t DigestOf(uint64_t hash) {
  const auto top = static_cast<uint16_t>(hash >> 48);
  return top > IndexBucket::kMarked ? top : static_cast<uint16_t>(top + 2);
}

RECIS_DEVICE inline uint32_t BucketAfter(const IndexView& index, uint32_t bucket) {
  return bucket + 1 == index.bucket_count ? 0 : bucket + 1;
}

template <class Tile>
RECIS_DEVICE uint64_t FindPlace(const Tile& tile, const IndexView& index, int64_t id) {
  static_assert(Tile::kLanes == IndexBucket::kPlaces);
  const uint64_t hash = MixId(id);
  const uint16_t digest = DigestOf(hash);
  uint32_t at = MapToRange(hash, index.bucket_count);
  for (uint32_t left = index.bucket_count; left > 0; --left, at = BucketAfter(index, at)) {
    const IndexBucket& bucket = index.buckets[at];
    const auto digests = tile.Map([&](int lane) { return bucket.digests[lane]; });
    const int lane =
        tile.First([&](int lane) { return digests.at(lane) == digest && bucket.ids[lane] == id; });
    if (lane < Tile::kLanes) return uint64_t{at} * IndexBucket::kPlaces + lane;
    if (tile.Any([&](int lane) { return digests.at(lane) == IndexBucket::kEmpty; })) break;
  }
  return kNoPlace;
}

template <class Tile>
RECIS_DEVICE Row FindRow(const Tile& tile, const IndexView& index, int64_t id) {
  const uint64_t place = FindPlace(tile, index, id);
  if (place == kNoPlace) return kNoRow;
  const int lane = static_cast<int>(place % IndexBucket::kPlaces);
  return tile.From(lane, [&] { return index.buckets[place / IndexBucket::kPlaces].rows[lane]; });
}

// REQUIRES: there is an empty place.
template <class Tile>
RECIS_DEVICE void InsertId(const Tile& tile, const IndexView& index, int64_t id, Row row) {
  static_assert(Tile::kLanes == IndexBucket::kPlaces);
  const uint64_t hash = MixId(id);
  const uint16_t digest = DigestOf(hash);
  for (uint32_t at = MapToRange(hash, index.bucket_count);;) {
    IndexBucket& bucket = index.buckets[at];
    const auto digests = tile.Map([&](int lane) { return AtomicLoad(&bucket.digests[lane]); });
    const int lane = tile.First([&](int lane) { return digests.at(lane) == IndexBucket::kEmpty; });
    if (lane == Tile::kLanes) {
      at = BucketAfter(index, at);
      continue;
    }
    const bool won = tile.From(lane, [&] {
      if (AtomicCompareExchange(&bucket.digests[lane], IndexBucket::kEmpty, digest) !=
          IndexBucket::kEmpty) {
        return false;
      }
      bucket.ids[lane] = id;
      bucket.rows[lane] = row;
      return true;
    });
    if (won) return;
  }
}

}  // namespace
}  // namespace recis
