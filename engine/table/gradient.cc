#include "table/gradient.h"

#include <algorithm>
#include <cstring>

#include "device/kernels.h"
#include "table/segments.h"

namespace recis {
Gradient::Gradient(DType dtype, int64_t dim)
    : dtype_(AccumulatorOf(dtype)), dim_(dim), row_bytes_(SizeOf(dtype_) * dim) {}

Numbering& Gradient::RowNumbers() {
  if (!numbers_) {
    numbers_.emplace(static_cast<int64_t>(rows_.size()));
    for (const Row row : rows_) numbers_->Number(row);
  }
  return *numbers_;
}

void Gradient::Grow(size_t entries) {
  if (entries * row_bytes_ <= sums_.bytes()) return;
  // The first contribution is taken at its size, later ones at least double it.
  const size_t wanted = std::max(entries * row_bytes_, 2 * sums_.bytes());
  Buffer larger = BufferCache::Get(wanted);
  if (!rows_.empty()) std::memcpy(larger.data(), sums_.data(), rows_.size() * row_bytes_);
  sums_ = std::move(larger);
}

void Gradient::Add(const Row* rows, int64_t count, const Occurrences& occurrences,
                   const void* values, DType dtype, bool mean, double divisor) {
  Buffer target_buffer = BufferCache::Get(static_cast<size_t>(count) * sizeof(uint32_t));
  Buffer fresh_buffer = BufferCache::Get(static_cast<size_t>(count));
  uint32_t* targets = target_buffer.as<uint32_t>();
  bool* fresh = fresh_buffer.as<bool>();

  const bool first = rows_.empty();
  Grow(rows_.size() + static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i] == kNoRow) {
      targets[i] = SegmentSumArgs::kSkip;
      continue;
    }
    const uint32_t entry =
        first ? static_cast<uint32_t>(rows_.size()) : RowNumbers().Number(rows[i]);
    fresh[i] = entry == rows_.size() || rows_[entry] == kNoRow;
    if (entry == rows_.size()) rows_.push_back(rows[i]);
    rows_[entry] = rows[i];
    targets[i] = entry;
  }

  SegmentSumArgs args;
  args.values = values;
  args.dtype = dtype;
  args.dim = dim_;
  args.offsets = occurrences.starts();
  args.positions = occurrences.order();
  args.targets = targets;
  args.fresh = fresh;
  args.mean = mean;
  args.divisor = divisor;
  args.sums = sums_.data();
  SumInParallel(args, count);
}

void Gradient::Drop(Row row) {
  if (rows_.empty()) return;
  const uint32_t entry = RowNumbers().Find(row);
  if (entry != Numbering::kUnseen) rows_[entry] = kNoRow;
}

void Gradient::Clear() {
  rows_.clear();
  numbers_.reset();
  sums_ = Buffer();
}

std::vector<Gradient::Entry> Gradient::Entries(bool ascending) const {
  std::vector<Entry> entries;
  entries.reserve(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i] != kNoRow) entries.push_back({rows_[i], static_cast<uint32_t>(i)});
  }
  if (ascending) {
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return a.row < b.row; });
  }
  return entries;
}

}  // namespace recis
