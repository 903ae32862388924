// Gradients, optimizer steps and slots of DeviceTable.

#include <algorithm>
#include <utility>

#include "table/device_table.h"

namespace recis {
// ---- gradient ---------------------------------------------------------------------------

int64_t DeviceTable::RunSumsBytes(int64_t n) const {
  return SumArgs::RunsFor(n) * schema_.slots()[0].count *
         static_cast<int64_t>(SizeOf(AccumulatorOf(options_.dtype)));
}

size_t DeviceTable::AccumulateBytes(int64_t n) const {
  return ArrayBytes<std::byte>(RunSumsBytes(n)) + 4 * ArrayBytes<uint32_t>(n) +
         2 * ArrayBytes<uint32_t>(n + 1) + ArrayBytes<bool>(n);
}

Status DeviceTable::AccumulateLocked(const DeviceNumbers& numbers, const Row* rows,
                                     const Row* found, const void* values, DType dtype, bool mean,
                                     double divisor, DeviceArrays* arrays) {
  const int64_t n = numbers.n;
  const int64_t most_new = std::min(n, most_rows_);  // one a row
  RECIS_RETURN_IF_ERROR(ReserveGradient(most_new));
  most_entries_ += most_new;
  AccumulateArgs args{rows, found,  numbers.inverse, numbers.count(),
                      n,    values, dtype,           schema_.slots()[0].count,
                      mean, divisor};
  args.positions = arrays->Take<uint32_t>(n);
  args.sorted_numbers = arrays->Take<uint32_t>(n);
  args.sorted_positions = arrays->Take<uint32_t>(n);
  args.offsets = arrays->Take<uint32_t>(n + 1);
  args.ranks = arrays->Take<uint32_t>(n + 1);
  args.targets = arrays->Take<uint32_t>(n);
  args.fresh = arrays->Take<bool>(n);
  args.run_sums = arrays->Take<std::byte>(RunSumsBytes(n));
  return kernels().Accumulate(view(), args, stream());
}

Status DeviceTable::Accumulate(const DeviceBatch& batch, const void* values, DType dtype, bool mean,
                               double divisor) {
  const Lock lock(*this);
  Result<DeviceArrays> arrays = Scratch(AccumulateBytes(batch.size) + ArrayBytes<Row>(batch.size));
  if (!arrays.ok()) return arrays.status();
  const bool same = batch.evictions == eviction_count_;
  const Row* rows = batch.rows;
  if (!same) {
    // An id may have lost its row since, or have got another one.
    Row* now = arrays.value().Take<Row>(batch.size);
    RECIS_RETURN_IF_ERROR(FindRows(batch, now));
    rows = now;
  }
  RECIS_RETURN_IF_ERROR(AccumulateLocked(batch.distinct, rows, batch.rows, values, dtype, mean,
                                         divisor, &arrays.value()));
  surely_has_gradient_ |= batch.all_admitted && batch.size > 0 && same;
  return {};
}

size_t DeviceTable::CheckRowsBytes(int64_t n) {
  return ArrayBytes<Row>(n) + ArrayBytes<uint32_t>(1);
}

Result<const Row*> DeviceTable::CheckRows(const int64_t* rows, int64_t n,
                                          DeviceArrays* arrays) const {
  Row* narrow = arrays->Take<Row>(n);
  auto* bad = arrays->Take<uint32_t>(1);
  uint32_t position;
  RECIS_RETURN_IF_ERROR(device_->space->Fill(bad, 0xff, sizeof(position), stream()));
  RECIS_RETURN_IF_ERROR(kernels().CheckRows(view(), rows, n, narrow, bad, stream()));
  RECIS_RETURN_IF_ERROR(device_->Fetch(bad, sizeof(position), &position));
  if (position == NumberingArgs::kNoPosition) return static_cast<const Row*>(narrow);
  int64_t row;
  RECIS_RETURN_IF_ERROR(device_->Fetch(rows + position, sizeof(row), &row));
  Result<Counts> counts = Count();
  if (!counts.ok()) return counts.status();
  return NotInUse(options_, row, position, counts.value().live_rows());
}

size_t DeviceTable::DistinctBytes(int64_t n) {
  return 2 * CheckRowsBytes(n) + NumberBytes(n) + DeviceNumbers::Bytes(n);
}

Result<DeviceTable::DistinctRows> DeviceTable::DistinctOf(const int64_t* rows, int64_t n,
                                                          DeviceArrays* arrays) const {
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n, arrays).status());
  const DeviceNumbers numbers = DeviceNumbers::Take(n, arrays);
  RECIS_RETURN_IF_ERROR(Number(rows, numbers, arrays));
  uint32_t count;
  RECIS_RETURN_IF_ERROR(device_->Fetch(numbers.count(), sizeof(count), &count));
  Result<const Row*> distinct = CheckRows(numbers.ids, count, arrays);
  if (!distinct.ok()) return distinct.status();
  return DistinctRows{numbers, distinct.value()};
}

Status DeviceTable::AccumulateRows(const int64_t* rows, int64_t n, const void* values,
                                   DType dtype) {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_, n));
  const Lock lock(*this);
  Result<DeviceArrays> arrays = Scratch(DistinctBytes(n) + AccumulateBytes(n));
  if (!arrays.ok()) return arrays.status();
  Result<DistinctRows> distinct = DistinctOf(rows, n, &arrays.value());
  if (!distinct.ok()) return distinct.status();
  const Row* found = distinct.value().rows;
  return AccumulateLocked(distinct.value().numbers, found, found, values, dtype, false, 1,
                          &arrays.value());
}

Result<int64_t> DeviceTable::LiveEntries() const {
  const int64_t n = most_entries_;
  Result<DeviceArrays> arrays =
      Scratch(2 * ArrayBytes<Row>(n) + 2 * ArrayBytes<uint32_t>(n) + ArrayBytes<uint32_t>(n + 1));
  if (!arrays.ok()) return arrays.status();
  Row* rows = arrays.value().Take<Row>(n);
  auto* unsorted = arrays.value().Take<uint32_t>(n);
  Row* sorted_rows = arrays.value().Take<Row>(n);
  auto* entries = arrays.value().Take<uint32_t>(n);
  auto* ranks = arrays.value().Take<uint32_t>(n + 1);
  RECIS_RETURN_IF_ERROR(
      kernels().SortGradient(view(), n, rows, unsorted, sorted_rows, entries, ranks, stream()));
  uint32_t count;
  RECIS_RETURN_IF_ERROR(device_->Fetch(ranks + n, sizeof(count), &count));
  sorted_gradient_ = {sorted_rows, entries};
  return int64_t{count};
}

Result<int64_t> DeviceTable::GradientRows() const {
  const Lock lock(*this);
  return LiveEntries();
}

Result<bool> DeviceTable::HasGradient() const {
  const Lock lock(*this);
  if (surely_has_gradient_ || most_entries_ == 0) return bool{surely_has_gradient_};
  Result<int64_t> entries = LiveEntries();
  if (!entries.ok()) return entries.status();
  return entries.value() > 0;
}

Result<int64_t> DeviceTable::ReadGradient(int64_t capacity, double divisor, int64_t* rows,
                                          std::byte* values) const {
  const Lock lock(*this);
  Result<int64_t> live = LiveEntries();
  if (!live.ok()) return live;
  const int64_t n = std::min(live.value(), capacity);
  RECIS_RETURN_IF_ERROR(kernels().TellRows(sorted_gradient_.rows, n, rows, nullptr, stream()));
  RECIS_RETURN_IF_ERROR(
      kernels().ReadGradient(view(), sorted_gradient_.entries, n, schema_.slots()[0].count,
                             AccumulatorOf(options_.dtype), divisor, values, stream()));
  return n;
}

Status DeviceTable::ClearGradient() {
  const Lock lock(*this);
  const int64_t n = std::exchange(most_entries_, 0);
  surely_has_gradient_ = false;
  return kernels().ClearGradient(view(), n, stream());
}

Status DeviceTable::Step(const RuleParams& params, const std::vector<int>& states) {
  const Lock lock(*this, LockToChange());
  Result<RecordPlaces> places = PlacesOf(options_, schema_, params, states);
  if (!places.ok()) return places.status();
  RECIS_RETURN_IF_ERROR(BeforeStep());
  return kernels().Step(
      view(), {most_entries_, schema_.slots()[0].count, options_.dtype, places.value(), &params},
      stream());
}

// ---- slots ------------------------------------------------------------------------------

Result<int> DeviceTable::AddSlot(Slot slot) {
  const Lock lock(*this);
  Schema schema = schema_;
  Result<int> added = AddSlotTo(options_, std::move(slot), &schema);
  if (!added.ok()) return added;
  if (schema.slots().size() == schema_.slots().size()) return added;
  RECIS_RETURN_IF_ERROR(Count().status());
  DeviceMemory new_record;
  RECIS_RETURN_IF_ERROR(SetNewRecord(schema, &new_record));
  DeviceChunks records(device_, schema.record_bytes(), SlabRows(options_, schema.record_bytes()));
  RECIS_RETURN_IF_ERROR(records.Reserve(most_rows_));
  RECIS_RETURN_IF_ERROR(kernels().ChangeLayout(view(), records.view(), new_record.data(),
                                               schema_.used_bytes(), most_rows_, stream()));
  records_ = std::move(records);
  new_record_ = std::move(new_record);
  schema_ = std::move(schema);
  return added;
}

std::vector<Slot> DeviceTable::Slots() const {
  const Lock lock(*this);
  return schema_.slots();
}

Status DeviceTable::ReadSlot(int slot, const int64_t* rows, int64_t n, std::byte* values) const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(CheckSlot(options_, schema_, slot));
  return CopySlot(schema_.slots()[slot], rows, n, values);
}

Status DeviceTable::CopySlot(const Slot& slot, const int64_t* rows, int64_t n,
                             std::byte* values) const {
  Result<DeviceArrays> arrays = Scratch(CheckRowsBytes(n));
  if (!arrays.ok()) return arrays.status();
  Result<const Row*> narrow = CheckRows(rows, n, &arrays.value());
  if (!narrow.ok()) return narrow.status();
  return kernels().Gather(view(), {narrow.value(), nullptr, n, slot.offset, slot.bytes(), values},
                          stream());
}

Status DeviceTable::ReadRecords(const int64_t* rows, int64_t n, std::byte* records) const {
  const Lock lock(*this);
  return CopySlot(WholeRecord(schema_), rows, n, records);
}

size_t DeviceTable::WriteBytes(int64_t n) { return DistinctBytes(n) + ArrayBytes<uint32_t>(n); }

Status DeviceTable::ReserveChange(int64_t n) {
  const Lock lock(*this);
  return Scratch(WriteBytes(n)).status();  // AddToSlot() needs less
}

Status DeviceTable::WriteSlot(int slot, const int64_t* rows, int64_t n, const std::byte* values) {
  RECIS_RETURN_IF_ERROR(CheckBatch(options_, n));
  const Lock lock(*this, LockToChange());
  RECIS_RETURN_IF_ERROR(CheckSlot(options_, schema_, slot));
  Result<DeviceArrays> arrays = Scratch(WriteBytes(n));
  if (!arrays.ok()) return arrays.status();
  Result<DistinctRows> found = DistinctOf(rows, n, &arrays.value());
  if (!found.ok()) return found.status();
  const DistinctRows& distinct = found.value();
  RECIS_RETURN_IF_ERROR(BeforeChangeOf(distinct.rows, distinct.numbers.count(), n));
  // Of a repeated row the last value wins.
  return ScatterLast(distinct.rows, distinct.numbers, schema_.slots()[slot], values,
                     &arrays.value());
}

Status DeviceTable::AddToSlot(int slot, const int64_t* rows, int64_t n, const int64_t* values) {
  const Lock lock(*this, LockToChange());
  RECIS_RETURN_IF_ERROR(CheckCounter(options_, schema_, slot));
  Result<DeviceArrays> arrays = Scratch(CheckRowsBytes(n));
  if (!arrays.ok()) return arrays.status();
  Result<const Row*> narrow = CheckRows(rows, n, &arrays.value());
  if (!narrow.ok()) return narrow.status();
  RECIS_RETURN_IF_ERROR(BeforeChangeOf(narrow.value(), nullptr, n));
  const Slot& counter = schema_.slots()[slot];
  return kernels().AddTo(view(), narrow.value(), n, counter.offset, counter.count, values,
                         stream());
}

Status DeviceTable::ReadWholeSlot(int slot, int64_t capacity, std::byte* values) const {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(CheckSlot(options_, schema_, slot));
  Result<DeviceArrays> arrays = Scratch(ArrayBytes<Row>(capacity));
  if (!arrays.ok()) return arrays.status();
  Row* rows = arrays.value().Take<Row>(capacity);
  RECIS_RETURN_IF_ERROR(kernels().LiveRows(view(), capacity, rows, stream()));
  const Slot& read = schema_.slots()[slot];
  return kernels().Gather(view(), {rows, nullptr, capacity, read.offset, read.bytes(), values},
                          stream());
}

}  // namespace recis
