#include "table/cut.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "base/thread_pool.h"
#include "table/cuttable.h"
#include "table/row_loops.h"

namespace recis {
namespace {

constexpr int64_t kScanRows = int64_t{1} << 18;  // looked through under one lock
constexpr int64_t kScanGrain = 1 << 14;
constexpr int64_t kGatherRows = 8192;  // copied under one lock at most
constexpr int64_t kGatherGrain = 256;
constexpr int64_t kAheadRows = 8;    // records on their way to the cache
constexpr int64_t kSortGrain = 256;  // slices

Row Itself(int64_t row) { return static_cast<Row>(row); }

}  // namespace

void SortBySlice(uint32_t slices, uint32_t begin, uint32_t end, std::vector<RowOfId>* rows) {
  std::vector<size_t> offsets(end - begin + 1, 0);
  for (const RowOfId& row : *rows) ++offsets[SliceOf(row.id, slices) - begin + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  std::vector<RowOfId> sorted(rows->size());
  std::vector<size_t> next(offsets.begin(), offsets.end() - 1);
  for (const RowOfId& row : *rows) sorted[next[SliceOf(row.id, slices) - begin]++] = row;
  ParallelFor(end - begin, kSortGrain, [&](int64_t first, int64_t last) {
    for (int64_t slice = first; slice < last; ++slice) {
      std::sort(sorted.begin() + static_cast<ptrdiff_t>(offsets[slice]),
                sorted.begin() + static_cast<ptrdiff_t>(offsets[slice + 1]),
                [](const RowOfId& a, const RowOfId& b) { return a.id < b.id; });
    }
  });
  *rows = std::move(sorted);
}

Cut::~Cut() { Abandon(); }

void Cut::Close() {
  if (table_) std::exchange(table_, nullptr)->EndCut(preserved_, nullptr);
}

void Cut::Abandon() {
  if (table_) std::exchange(table_, nullptr)->EndCut(preserved_, tracked_ ? &changes_ : nullptr);
}

// Those of rows row_at(begin), ..., row_at(end - 1) that are of this cut. REQUIRES: the table's
// lock.
template <class RowAt, class Use>
void Cut::ForEachRow(int64_t begin, int64_t end, RowAt row_at, Use use) const {
  const Directory& directory = table_->directory();
  std::vector<Row> touched;
  for (int64_t i = begin; i < end; ++i) {
    const Row row = row_at(i);
    if (row == kNoRow) continue;
    if (!whole_ && !changes_.rows.Has(row)) continue;
    if (preserved_->touched().Has(row)) {
      touched.push_back(row);
    } else if (directory.Live(row)) {
      use(RowOfId{directory.IdOf(row), row});
    }
  }
  std::vector<Preserved::Copy> copies(touched.size());
  preserved_->Find(touched.data(), static_cast<int64_t>(touched.size()), copies.data());
  for (size_t i = 0; i < touched.size(); ++i) {
    // Another saver may let go of its slices' copies meanwhile.
    if (copies[i].record != nullptr) use(RowOfId{copies[i].id, touched[i]});
  }
}

// The same of all n, some under one lock. Calls use() with some of them at a time, one call after
// the other.
template <class RowAt, class Use>
Status Cut::Scan(int64_t n, RowAt row_at, Use use) const {
  std::mutex mutex;
  for (int64_t first = 0; first < n; first += kScanRows) {
    const Cuttable::ReadLock lock(table_->mutex_);
    RECIS_RETURN_IF_ERROR(table_->Usable());
    const int64_t count = std::min(kScanRows, n - first);
    ParallelFor(count, kScanGrain, [&](int64_t begin, int64_t end) {
      std::vector<RowOfId> found;
      ForEachRow(first + begin, first + end, row_at,
                 [&](const RowOfId& row) { found.push_back(row); });
      const std::lock_guard<std::mutex> using_them(mutex);
      use(found);
    });
  }
  return {};
}

Status Cut::Usable() const {
  return table_ ? Status() : Unavailable("the cut of a table has been closed, and cannot be read");
}

// REQUIRES: the table's lock.
int64_t Cut::CountRows() const {
  int64_t rows = 0;
  ForEachRow(0, end_, Itself, [&](const RowOfId&) { ++rows; });
  return rows;
}

// REQUIRES: listing_mutex_.
Status Cut::Count(uint32_t slices) const {
  if (counts_.size() == slices) return {};
  counts_.clear();
  std::vector<int64_t> counts(slices);
  RECIS_RETURN_IF_ERROR(Scan(end_, Itself, [&](const std::vector<RowOfId>& found) {
    for (const RowOfId& row : found) ++counts[SliceOf(row.id, slices)];
  }));
  counts_ = std::move(counts);
  return {};
}

Status Cut::CountSlices(uint32_t slices, int64_t* counts) const {
  RECIS_RETURN_IF_ERROR(Usable());
  const std::lock_guard<std::mutex> lock(listing_mutex_);
  RECIS_RETURN_IF_ERROR(Count(slices));
  std::copy(counts_.begin(), counts_.end(), counts);
  return {};
}

Result<std::shared_ptr<const Cut::Listing>> Cut::ListingOf(uint32_t slices, uint32_t begin,
                                                           uint32_t end) const {
  const std::lock_guard<std::mutex> lock(listing_mutex_);
  if (listing_ && listing_->slices == slices && listing_->begin <= begin && end <= listing_->end) {
    return listing_;
  }
  listing_.reset();  // its memory is needed
  RECIS_RETURN_IF_ERROR(Count(slices));
  auto listing = std::make_shared<Listing>(Listing{slices, begin, begin, {0}, {}});
  while (listing->end < slices) {
    const int64_t past = listing->offsets.back() + counts_[listing->end];
    if (listing->end >= end && past > listed_rows_) break;
    listing->offsets.push_back(past);
    ++listing->end;
  }
  std::vector<int64_t> next(listing->offsets.begin(), listing->offsets.end() - 1);
  listing->rows.assign(static_cast<size_t>(listing->offsets.back()), kNoRow);
  RECIS_RETURN_IF_ERROR(Scan(end_, Itself, [&](const std::vector<RowOfId>& found) {
    for (const RowOfId& row : found) {
      const uint32_t slice = SliceOf(row.id, slices);
      if (slice < begin || slice >= listing->end) continue;
      listing->rows[static_cast<size_t>(next[slice - begin]++)] = row.row;
    }
  }));
  listing_ = std::move(listing);
  return listing_;
}

Status Cut::List(uint32_t slices, uint32_t begin, uint32_t end, std::vector<RowOfId>* rows) const {
  RECIS_RETURN_IF_ERROR(Usable());
  rows->clear();
  Result<std::shared_ptr<const Listing>> found = ListingOf(slices, begin, end);
  if (!found.ok()) return found.status();
  const Listing& listing = *found.value();
  const int64_t first = listing.offsets[begin - listing.begin];
  const int64_t n = listing.offsets[end - listing.begin] - first;
  rows->reserve(static_cast<size_t>(n));
  RECIS_RETURN_IF_ERROR(Scan(
      n, [&](int64_t i) { return listing.rows[static_cast<size_t>(first + i)]; },
      [&](const std::vector<RowOfId>& some) {
        rows->insert(rows->end(), some.begin(), some.end());
      }));
  SortBySlice(slices, begin, end, rows);
  return {};
}

Status Cut::Gather(const RowOfId* rows, int64_t n, const std::vector<std::byte*>& values) const {
  RECIS_RETURN_IF_ERROR(Usable());
  const int64_t most =
      std::clamp<int64_t>(static_cast<int64_t>(gathered_bytes_ / record_bytes_), 1, kGatherRows);
  std::vector<Row> wanted(static_cast<size_t>(std::min(n, most)));
  std::vector<const std::byte*> kept;
  Buffer copied;
  std::vector<int64_t> places;  // in this chunk, of touched rows
  std::vector<Row> touched;
  std::vector<Preserved::Copy> copies;
  Sources sources;
  for (int64_t first = 0; first < n; first += most) {
    const int64_t count = std::min(most, n - first);
    RECIS_RETURN_IF_ERROR(table_->ReadAhead(rows + first, count, &copied, &kept));
    Cuttable::ReadLock lock(table_->mutex_);
    RECIS_RETURN_IF_ERROR(table_->Usable());
    places.clear();
    touched.clear();
    for (int64_t i = 0; i < count; ++i) {
      const Row row = rows[first + i].row;
      wanted[i] = kept[i] == nullptr ? row : kNoRow;
      if (!preserved_->touched().Has(row)) continue;
      wanted[i] = kNoRow;
      places.push_back(i);
      touched.push_back(row);
    }
    copies.resize(touched.size());
    preserved_->Find(touched.data(), static_cast<int64_t>(touched.size()), copies.data());
    for (size_t i = 0; i < touched.size(); ++i) {
      if (copies[i].record == nullptr) {
        return Unavailable("table '" + table_->options_.name +
                           "': the snapshot has let go of row " + std::to_string(touched[i]) +
                           " already");
      }
      kept[places[i]] = copies[i].record;
    }
    if (std::any_of(wanted.begin(), wanted.begin() + count,
                    [](Row row) { return row != kNoRow; })) {
      RECIS_RETURN_IF_ERROR(table_->Locate(wanted.data(), count, &sources));
    } else {
      lock.unlock();  // what is copied and preserved does not change
    }
    const auto record_of = [&](int64_t i) {
      return kept[i] != nullptr ? kept[i] : sources.data()[i];
    };
    ParallelFor(count, kGatherGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (i + kAheadRows < end) Fetch(record_of(i + kAheadRows), record_bytes_);
        const std::byte* record = record_of(i);
        for (size_t k = 0; k < slots_.size(); ++k) {
          const size_t bytes = slots_[k].bytes();
          std::memcpy(values[k] + (first + i) * bytes, record + slots_[k].offset, bytes);
        }
      }
    });
  }
  return {};
}

void Cut::Done(uint32_t slices, uint32_t begin, uint32_t end) {
  preserved_->Done(slices, begin, end);
}

}  // namespace recis
