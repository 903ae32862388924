#include "table/device_table.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace recis {
namespace {

constexpr double kMaxLoad = 0.85;         // of the index's places
constexpr uint32_t kChunkRows = 1 << 16;  // of directory and freed rows
constexpr size_t kSlabBytes = size_t{4} << 20;
// Room is made for so many calls like the one that found too little.
constexpr int64_t kCallsAhead = 4;

}  // namespace

uint32_t DeviceTable::SlabRows(const TableOptions& options, size_t record_bytes) {
  const size_t block_bytes = record_bytes * static_cast<size_t>(options.block_rows);
  const size_t blocks = std::max<size_t>(kSlabBytes / block_bytes, 1);
  return static_cast<uint32_t>(blocks * options.block_rows);
}

DeviceTable::DeviceTable(TableOptions options, std::shared_ptr<Device> device, Schema schema,
                         int64_t limit)
    : Cuttable(std::move(options)),
      device_(std::move(device)),
      limit_(limit),
      schema_(std::move(schema)),
      rows_(device_, sizeof(RowEntry), kChunkRows),
      freed_(device_, sizeof(Row), kChunkRows),
      records_(device_, schema_.record_bytes(), SlabRows(options_, schema_.record_bytes())) {}

Result<std::shared_ptr<DeviceTable>> DeviceTable::Make(TableOptions options,
                                                       std::shared_ptr<Device> device,
                                                       int64_t limit) {
  Result<Schema> schema = SchemaOf(options);
  if (!schema.ok()) return schema.status();
  std::shared_ptr<DeviceTable> table(
      new DeviceTable(std::move(options), device, std::move(schema.value()), limit));
  Result<DeviceMemory> counts = DeviceMemory::Get(device, sizeof(DeviceCounts));
  if (!counts.ok()) return counts.status();
  table->counts_ = std::move(counts.value());
  RECIS_RETURN_IF_ERROR(
      device->space->Fill(table->counts_.data(), 0, sizeof(DeviceCounts), device->stream));
  RECIS_RETURN_IF_ERROR(table->SetNewRecord(table->schema_, &table->new_record_));
  RECIS_RETURN_IF_ERROR(table->ReserveIndex(0, 0));
  return table;
}

DeviceTableView DeviceTable::view() const {
  return {{reinterpret_cast<IndexBucket*>(buckets_.data()), bucket_count_},
          rows_.view(),
          freed_.view(),
          records_.view(),
          reinterpret_cast<DeviceCounts*>(counts_.data()),
          reinterpret_cast<Row*>(gradient_rows_.data()),
          gradient_sums_.data()};
}

Result<DeviceArrays> DeviceTable::Scratch(size_t bytes) const {
  if (scratch_.bytes() < bytes) {
    Result<DeviceMemory> larger = DeviceMemory::Get(device_, bytes);
    if (!larger.ok()) return larger.status();
    scratch_ = std::move(larger.value());
  }
  return DeviceArrays(scratch_);
}

Status DeviceTable::SetNewRecord(const Schema& schema, DeviceMemory* record) const {
  const std::vector<std::byte> bytes = NewRecord(options_, schema);
  Result<DeviceMemory> memory = DeviceMemory::Get(device_, bytes.size());
  if (!memory.ok()) return memory.status();
  RECIS_RETURN_IF_ERROR(
      device_->space->Copy(memory.value().data(), bytes.data(), bytes.size(), stream()));
  RECIS_RETURN_IF_ERROR(device_->space->Wait(stream()));  // `bytes` goes
  *record = std::move(memory.value());
  return {};
}

// ---- how much there is ------------------------------------------------------------------

Result<DeviceTable::Counts> DeviceTable::Count() const {
  Counts counts;
  static_assert(offsetof(DeviceCounts, admits) == offsetof(Counts, admits));
  RECIS_RETURN_IF_ERROR(device_->Fetch(counts_.data(), sizeof(counts), &counts));
  most_rows_ = static_cast<int64_t>(counts.end);
  most_places_ = static_cast<int64_t>(counts.used_places);
  most_entries_ = static_cast<int64_t>(counts.gradient_entries);
  return counts;
}

// Makes room for `count` more rows.
Status DeviceTable::ReserveRows(int64_t count) {
  const auto places = static_cast<int64_t>(kMaxLoad * bucket_count_ * IndexBucket::kPlaces);
  if (most_rows_ + count <= std::min(rows_.reserved(), records_.reserved()) &&
      most_places_ + count <= places) {
    return {};
  }
  Result<Counts> counts = Count();
  if (!counts.ok()) return counts.status();
  // Those that were freed are used again first.
  const int64_t wanted = std::max(most_rows_, counts.value().live_rows() + count);
  if (wanted > limit_) {
    return Full("table '" + options_.name + "': a table holds at most " + std::to_string(limit_) +
                " rows; this one has " + std::to_string(counts.value().live_rows()) +
                " and up to " + std::to_string(count) +
                " more were asked for: spread it over more shards");
  }
  const int64_t ahead =
      std::min(limit_, std::max(most_rows_ + kCallsAhead * count, most_rows_ * 5 / 4));
  for (DeviceChunks* chunks : {&rows_, &freed_, &records_}) {
    if (chunks->reserved() >= wanted) continue;
    // Less will do where memory is short.
    if (!chunks->Reserve(ahead).ok()) RECIS_RETURN_IF_ERROR(chunks->Reserve(wanted));
  }
  return most_places_ + count <= places ? Status()
                                        : ReserveIndex(counts.value().live_rows(), count);
}

// Rebuilds the index with places for as many more. REQUIRES: the bounds are exact.
Status DeviceTable::ReserveIndex(int64_t live_rows, int64_t count) {
  const auto wanted =
      static_cast<double>(std::max(live_rows + kCallsAhead * count, live_rows * 3 / 2));
  const auto buckets = static_cast<uint32_t>(wanted / (kMaxLoad * IndexBucket::kPlaces)) + 1;
  Result<DeviceMemory> memory = DeviceMemory::Get(device_, buckets * sizeof(IndexBucket));
  if (!memory.ok()) return memory.status();
  RECIS_RETURN_IF_ERROR(
      device_->space->Fill(memory.value().data(), 0, memory.value().bytes(), stream()));
  buckets_ = std::move(memory.value());
  bucket_count_ = buckets;
  most_places_ = live_rows;
  return kernels().Rebuild(view(), most_rows_, stream());
}

Status DeviceTable::ReserveGradient(int64_t count) {
  if (most_entries_ + count <= gradient_room_) return {};
  if (most_entries_ > 0) {
    Result<Counts> counts = Count();
    if (!counts.ok()) return counts.status();
    if (most_entries_ + count <= gradient_room_) return {};
  }
  const int64_t room = std::max(most_entries_ + count, most_entries_ * 2);
  const size_t row_bytes = SizeOf(AccumulatorOf(options_.dtype)) * schema_.slots()[0].count;
  Result<DeviceMemory> rows = DeviceMemory::Get(device_, room * sizeof(Row));
  if (!rows.ok()) return rows.status();
  Result<DeviceMemory> sums = DeviceMemory::Get(device_, room * row_bytes);
  if (!sums.ok()) return sums.status();
  if (most_entries_ > 0) {
    RECIS_RETURN_IF_ERROR(device_->space->Copy(rows.value().data(), gradient_rows_.data(),
                                               most_entries_ * sizeof(Row), stream()));
    RECIS_RETURN_IF_ERROR(device_->space->Copy(sums.value().data(), gradient_sums_.data(),
                                               most_entries_ * row_bytes, stream()));
  }
  gradient_rows_ = std::move(rows.value());
  gradient_sums_ = std::move(sums.value());
  gradient_room_ = room;
  return {};
}

// ---- whole table ------------------------------------------------------------------------

Result<int64_t> DeviceTable::size() const {
  const Lock lock(*this);
  Result<Counts> counts = Count();
  if (!counts.ok()) return counts.status();
  return counts.value().live_rows();
}

Result<int64_t> DeviceTable::Capacity() const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Count().status());
  const int64_t block = options_.block_rows;
  return (most_rows_ + block - 1) / block * block;
}

Result<int64_t> DeviceTable::IdsMap(int64_t capacity, int64_t* ids, int64_t* rows) const {
  const Lock lock(*this);
  Result<Counts> counts = Count();
  if (!counts.ok()) return counts.status();
  Result<DeviceArrays> arrays = Scratch(ArrayBytes<uint32_t>(most_rows_ + 1));
  if (!arrays.ok()) return arrays.status();
  RECIS_RETURN_IF_ERROR(kernels().ListRows(view(), most_rows_,
                                           arrays.value().Take<uint32_t>(most_rows_ + 1), capacity,
                                           ids, rows, stream()));
  return std::min(capacity, counts.value().live_rows());
}

Result<TableStats> DeviceTable::Stats() const {
  const Lock lock(*this);
  DeviceCounts counts;
  RECIS_RETURN_IF_ERROR(device_->Fetch(counts_.data(), sizeof(counts), &counts));
  Result<int64_t> entries = LiveEntries();
  if (!entries.ok()) return entries.status();
  TableStats stats;
  stats.rows = static_cast<int64_t>(counts.end - counts.freed);
  stats.lookups = lookups_;
  for (const uint64_t hits : counts.hits) stats.hits += static_cast<int64_t>(hits);
  stats.misses = stats.lookups - stats.hits;
  stats.admits = static_cast<int64_t>(counts.admits);
  stats.refusals = refusals_;
  stats.evictions = evictions_;
  stats.hot_rows = stats.rows;
  stats.hot_bytes = static_cast<int64_t>(records_.bytes());
  stats.index_bytes = static_cast<int64_t>(buckets_.bytes() + rows_.bytes() + freed_.bytes());
  stats.gradient_rows = entries.value();
  return stats;
}

Status DeviceTable::Clear() {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(CheckClearable());
  Result<Counts> counts = Count();
  if (!counts.ok()) return counts.status();
  // Made first, so that a failure changes nothing; hits and admits stay counted.
  const size_t kept = offsetof(DeviceCounts, admits);
  Result<DeviceMemory> bucket = DeviceMemory::Get(device_, sizeof(IndexBucket));
  if (!bucket.ok()) return bucket.status();
  RECIS_RETURN_IF_ERROR(
      device_->space->Fill(bucket.value().data(), 0, sizeof(IndexBucket), stream()));
  if (changes_) RECIS_RETURN_IF_ERROR(NoteAllFreed(counts.value().live_rows()));
  RECIS_RETURN_IF_ERROR(device_->space->Fill(counts_.data(), 0, kept, stream()));
  buckets_ = std::move(bucket.value());
  bucket_count_ = 1;
  evictions_ += counts.value().live_rows();
  ++eviction_count_;
  rows_.Clear();
  freed_.Clear();
  records_.Clear();
  most_rows_ = most_places_ = most_entries_ = 0;
  surely_has_gradient_ = false;
  return {};
}

}  // namespace recis
