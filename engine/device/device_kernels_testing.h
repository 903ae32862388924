// What the tests of device algorithms share: the host's executors, and calls in terms of vectors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/testing.h"
#include "device/device_kernels.h"

namespace recis::testing {

struct NamedKernels {
  std::string name;
  std::shared_ptr<DeviceKernels> kernels;
};

inline std::vector<NamedKernels> AllKernels() {
  return {{"host", HostKernels()}, {"lanes", LanesKernels()}};
}

struct Numbered {
  std::vector<int64_t> ids;       // distinct
  std::vector<uint32_t> inverse;  // number of each position's id
};

inline Numbered NumberedOn(DeviceKernels& kernels, const std::vector<int64_t>& ids) {
  const size_t n = ids.size();
  Numbered out{std::vector<int64_t>(n), std::vector<uint32_t>(n)};
  std::vector<uint32_t> numbers(n + 1);
  std::vector<uint32_t> places(NumberingArgs::PlacesFor(static_cast<int64_t>(n)),
                               NumberingArgs::kNoPosition);
  EXPECT(kernels
             .Number({ids.data(), static_cast<int64_t>(n), out.ids.data(), out.inverse.data(),
                      numbers.data(), places.data()},
                     nullptr)
             .ok());
  out.ids.resize(numbers[n]);
  return out;
}

// A table of plain vectors, of `bucket_count` buckets and room for `capacity` rows.
struct PlainTable {
  PlainTable(uint32_t bucket_count, uint32_t capacity, size_t record_bytes)
      : buckets(bucket_count),
        entries(capacity),
        freed(capacity),
        records(capacity * record_bytes),
        gradient_rows(capacity),
        gradient_sums(capacity * record_bytes),
        counts{},
        new_record(record_bytes) {
    const auto one_chunk = [capacity](std::byte* const* chunk, size_t bytes) {
      return ChunkView{chunk, ~uint64_t{0} / (capacity + 1) + 1, capacity + 1, bytes};
    };
    view.index = {buckets.data(), bucket_count};
    view.rows = one_chunk(&chunks[0], sizeof(RowEntry));
    view.freed = one_chunk(&chunks[1], sizeof(Row));
    view.records = one_chunk(&chunks[2], record_bytes);
    view.counts = &counts;
    view.gradient_rows = gradient_rows.data();
    view.gradient_sums = gradient_sums.data();
    chunks[0] = reinterpret_cast<std::byte*>(entries.data());
    chunks[1] = reinterpret_cast<std::byte*>(freed.data());
    chunks[2] = records.data();
  }
  PlainTable(const PlainTable&) = delete;

  // REQUIRES for all three: distinct ids.
  std::vector<Row> Find(DeviceKernels& kernels, const std::vector<int64_t>& ids,
                        std::vector<uint64_t>* places = nullptr) const {
    std::vector<Row> rows(ids.size(), 1234567);
    EXPECT(kernels
               .Find(view,
                     {ids.data(), nullptr, static_cast<int64_t>(ids.size()), rows.data(),
                      places == nullptr ? nullptr : places->data()},
                     nullptr)
               .ok());
    return rows;
  }
  std::vector<Row> Admit(DeviceKernels& kernels, const std::vector<int64_t>& ids) {
    std::vector<Row> rows = Find(kernels, ids);
    std::vector<uint32_t> ranks(ids.size() + 1);
    EXPECT(kernels
               .Admit(view,
                      {ids.data(), nullptr, nullptr, static_cast<int64_t>(ids.size()), rows.data(),
                       ranks.data(), new_record.data(), new_record.size(), nullptr, DType::kFloat32,
                       0},
                      nullptr)
               .ok());
    return rows;
  }
  void Evict(DeviceKernels& kernels, const std::vector<int64_t>& ids) {
    std::vector<uint64_t> places(ids.size());
    const std::vector<Row> rows = Find(kernels, ids, &places);
    std::vector<uint32_t> ranks(ids.size() + 1);
    EXPECT(kernels
               .Evict(view,
                      {rows.data(), places.data(), nullptr, static_cast<int64_t>(ids.size()),
                       ranks.data(), new_record.size()},
                      nullptr)
               .ok());
  }

  std::vector<IndexBucket> buckets;
  std::vector<RowEntry> entries;
  std::vector<Row> freed;
  std::vector<std::byte> records;
  std::vector<Row> gradient_rows;
  std::vector<std::byte> gradient_sums;
  DeviceCounts counts;
  std::vector<std::byte> new_record;
  std::byte* chunks[3];
  DeviceTableView view;
};

}  // namespace recis::testing
