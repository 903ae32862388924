// What a cut asks of DeviceTable, and what it notes of changes. See Cuttable.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "table/device_table.h"

namespace recis {
namespace {

constexpr size_t kReadBytes = size_t{2} << 20;  // at a time: the bus is hardly ever idle
constexpr int64_t kDirectoryGrain = 1 << 14;
constexpr int64_t kFoundIds = int64_t{1} << 20;  // at a time

}  // namespace

// ---- a cut is taken ---------------------------------------------------------------------

Status DeviceTable::ForgetChanges() {
  return kernels().ForgetChanges(view(), most_rows_, stream());
}

Result<DeviceTable::Moment> DeviceTable::BeginCut() {
  Result<Counts> counts = Count();
  if (!counts.ok()) return counts.status();
  auto at_cut = std::make_unique<AtCut>();
  at_cut->record_bytes = schema_.record_bytes();
  const size_t widest = std::max(at_cut->record_bytes, sizeof(RowEntry));
  const size_t bytes = std::max(std::min(kReadBytes, most_rows_ * widest), widest);
  for (auto* reader : {&at_cut->for_changes, &at_cut->for_savers}) {
    Result<std::unique_ptr<DeviceReader>> made = DeviceReader::Make(device_, bytes);
    if (!made.ok()) return made.status();
    *reader = std::move(made.value());
  }
  RowSet changed;
  RECIS_RETURN_IF_ERROR(CopyDirectory(*at_cut->for_savers, &at_cut->directory, &changed));
  if (changes_) {
    RECIS_RETURN_IF_ERROR(ForgetChanges());
    changes_->rows.Add(changed);
  }
  at_cut_ = std::move(at_cut);
  return Moment{schema_.slots(), schema_.used_bytes(), counts.value().live_rows(),
                /*all_seen=*/true, kReadBytes};
}

// REQUIRES: the bounds are exact.
Status DeviceTable::CopyDirectory(DeviceReader& reader, Directory* directory,
                                  RowSet* changed) const {
  RECIS_RETURN_IF_ERROR(directory->Recover(most_rows_, {}));
  for (int64_t first = 0, next = 0; first < most_rows_; first = next) {
    while (next < most_rows_ && reader.room() >= sizeof(RowEntry)) {
      const auto room = static_cast<int64_t>(reader.room() / sizeof(RowEntry));
      const int64_t count = std::min({room, rows_.Run(next), most_rows_ - next});
      RECIS_RETURN_IF_ERROR(reader.Add(rows_.At(next), count * sizeof(RowEntry)));
      next += count;
    }
    Result<const std::byte*> read = reader.Take();
    if (!read.ok()) return read.status();
    const auto* entries = reinterpret_cast<const RowEntry*>(read.value());
    ParallelFor(next - first, kDirectoryGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (entries[i].live != 0) directory->Bind(static_cast<Row>(first + i), entries[i].id);
      }
    });
    for (int64_t i = 0; changes_ && i < next - first; ++i) {
      if (entries[i].changed != 0) changed->Add(static_cast<Row>(first + i));
    }
  }
  return {};
}

Status DeviceTable::FindIds(const int64_t* ids, int64_t n, Row* rows) const {
  for (int64_t first = 0; first < n; first += kFoundIds) {
    const int64_t count = std::min(kFoundIds, n - first);
    Result<DeviceArrays> arrays = Scratch(ArrayBytes<int64_t>(count) + ArrayBytes<Row>(count));
    if (!arrays.ok()) return arrays.status();
    auto* wanted = arrays.value().Take<int64_t>(count);
    Row* found = arrays.value().Take<Row>(count);
    RECIS_RETURN_IF_ERROR(
        device_->space->Copy(wanted, ids + first, count * sizeof(int64_t), stream()));
    RECIS_RETURN_IF_ERROR(
        kernels().Find(view(), {wanted, nullptr, count, found, nullptr}, stream()));
    RECIS_RETURN_IF_ERROR(device_->Fetch(found, count * sizeof(Row), rows + first));
  }
  return {};
}

// ---- its records are read ---------------------------------------------------------------

Status DeviceTable::Locate(const Row* rows, int64_t n, Sources* sources) const {
  sources->pointers = BufferCache::Get(static_cast<size_t>(n) * sizeof(const std::byte*));
  auto* pointers = sources->pointers.as<const std::byte*>();
  std::vector<Row> wanted;
  const size_t bytes = at_cut_->record_bytes;
  sources->copies =
      BufferCache::Get(static_cast<size_t>(n - std::count(rows, rows + n, kNoRow)) * bytes);
  for (int64_t i = 0; i < n; ++i) {
    pointers[i] = rows[i] == kNoRow ? nullptr : sources->copies.data() + wanted.size() * bytes;
    if (rows[i] != kNoRow) wanted.push_back(rows[i]);
  }
  DeviceReader& reader = *at_cut_->for_changes;
  const size_t most = reader.room() / bytes;
  for (size_t first = 0; first < wanted.size(); first += most) {
    const size_t count = std::min(most, wanted.size() - first);
    RECIS_RETURN_IF_ERROR(
        reader.AddRecords(view(), wanted.data() + first, static_cast<int64_t>(count), bytes));
    Result<const std::byte*> read = reader.Take();
    if (!read.ok()) return read.status();
    std::memcpy(sources->copies.data() + first * bytes, read.value(), count * bytes);
  }
  return {};
}

// The device collects records before it comes to what is enqueued after the lock is let go of, so
// they are as they were then.
Status DeviceTable::ReadAhead(const RowOfId* rows, int64_t n, Buffer* memory,
                              std::vector<const std::byte*>* records) const {
  records->assign(static_cast<size_t>(n), nullptr);
  const size_t bytes = at_cut_->record_bytes;
  *memory = BufferCache::Get(static_cast<size_t>(n) * bytes);
  const std::lock_guard<std::mutex> saving(at_cut_->saving);
  DeviceReader& reader = *at_cut_->for_savers;
  const auto most = static_cast<int64_t>(reader.room() / bytes);
  for (int64_t first = 0; first < n; first += most) {
    std::vector<Row> untouched;
    std::byte* const copies = memory->data() + first * bytes;
    {
      const WriteLock lock(mutex_);
      for (int64_t i = first; i < std::min(first + most, n); ++i) {
        if (preserved_->touched().Has(rows[i].row)) continue;
        (*records)[i] = copies + untouched.size() * bytes;
        untouched.push_back(rows[i].row);
      }
      RECIS_RETURN_IF_ERROR(reader.AddRecords(view(), untouched.data(),
                                              static_cast<int64_t>(untouched.size()), bytes));
    }
    Result<const std::byte*> read = reader.Take();
    if (!read.ok()) return read.status();
    std::memcpy(copies, read.value(), untouched.size() * bytes);
  }
  return {};
}

// ---- changes ----------------------------------------------------------------------------

Status DeviceTable::BeforeChangeOf(const Row* rows, const uint32_t* count, int64_t n) {
  if (!preserved_) {
    return changes_ ? kernels().MarkChanged(view(), rows, count, n, stream()) : Status();
  }
  auto there = static_cast<uint32_t>(n);
  if (count != nullptr) RECIS_RETURN_IF_ERROR(device_->Fetch(count, sizeof(there), &there));
  std::vector<Row> on_host(there);
  RECIS_RETURN_IF_ERROR(device_->Fetch(rows, there * sizeof(Row), on_host.data()));
  return BeforeChange(on_host.data(), there);
}

Status DeviceTable::BeforeStep() {
  if (!preserved_) {
    return changes_ ? kernels().MarkStepped(view(), most_entries_, stream()) : Status();
  }
  Result<int64_t> entries = LiveEntries();
  if (!entries.ok()) return entries.status();
  return BeforeChangeOf(sorted_gradient_.rows, nullptr, entries.value());
}

Status DeviceTable::NoteFreed(const int64_t* ids, const Row* rows, const uint32_t* count) {
  uint32_t n;
  RECIS_RETURN_IF_ERROR(device_->Fetch(count, sizeof(n), &n));
  std::vector<int64_t> all(n);
  std::vector<Row> found(n);
  RECIS_RETURN_IF_ERROR(device_->Fetch(ids, n * sizeof(int64_t), all.data()));
  RECIS_RETURN_IF_ERROR(device_->Fetch(rows, n * sizeof(Row), found.data()));
  for (uint32_t i = 0; i < n; ++i) {
    if (found[i] != kNoRow) changes_->freed.push_back(all[i]);
  }
  return {};
}

Status DeviceTable::NoteAllFreed(int64_t live_rows) {
  Result<DeviceArrays> arrays =
      Scratch(ArrayBytes<uint32_t>(most_rows_ + 1) + 2 * ArrayBytes<int64_t>(live_rows));
  if (!arrays.ok()) return arrays.status();
  auto* ranks = arrays.value().Take<uint32_t>(most_rows_ + 1);
  auto* ids = arrays.value().Take<int64_t>(live_rows);
  auto* rows = arrays.value().Take<int64_t>(live_rows);
  RECIS_RETURN_IF_ERROR(
      kernels().ListRows(view(), most_rows_, ranks, live_rows, ids, rows, stream()));
  std::vector<int64_t> all(static_cast<size_t>(live_rows));
  RECIS_RETURN_IF_ERROR(device_->Fetch(ids, live_rows * sizeof(int64_t), all.data()));
  changes_->freed.insert(changes_->freed.end(), all.begin(), all.end());
  return {};
}

}  // namespace recis
