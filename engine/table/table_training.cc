// Gradients and optimizer steps of Table.

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "table/row_loops.h"
#include "table/table.h"

namespace recis {
namespace {

constexpr int kUpdateRows = 16;  // records fetched before they are updated

}  // namespace

Status Table::Accumulate(const Batch& batch, const void* values, DType dtype, bool mean,
                         double divisor) {
  const Occurrences occurrences(batch);
  WriteLock lock(mutex_);
  const Row* rows = batch.row_data();
  std::vector<Row> checked;
  if (batch.evictions != eviction_count_) {
    // An id may have lost its row since, or have got another one.
    std::vector<Row> found(static_cast<size_t>(batch.distinct));
    index_.Find(batch.id_data(), batch.distinct, found.data());
    checked.assign(rows, rows + batch.distinct);
    for (int64_t i = 0; i < batch.distinct; ++i) {
      if (rows[i] != kNoRow) checked[i] = found[i];
    }
    rows = checked.data();
  }
  gradient_->Add(rows, batch.distinct, occurrences, values, dtype, mean, divisor);
  return {};
}

Status Table::CheckRows(const int64_t* rows, int64_t n) const {
  for (int64_t i = 0; i < n; ++i) {
    if (!directory_.Live(rows[i])) {
      return NotInUse(options_, rows[i], i, directory_.live_rows());
    }
  }
  return {};
}

Status Table::AccumulateRows(const int64_t* rows, int64_t n, const void* values, DType dtype) {
  RECIS_RETURN_IF_ERROR(CheckBatch(n));
  WriteLock lock(mutex_);
  RECIS_RETURN_IF_ERROR(CheckRows(rows, n));
  Numbering numbers(n);
  std::vector<uint32_t> inverse(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) inverse[i] = numbers.Number(rows[i]);
  std::vector<Row> distinct(numbers.ids(), numbers.ids() + numbers.size());
  const Occurrences occurrences(inverse.data(), n, numbers.size());
  gradient_->Add(distinct.data(), numbers.size(), occurrences, values, dtype, false, 1);
  return {};
}

int64_t Table::GradientRows() const {
  ReadLock lock(mutex_);
  return static_cast<int64_t>(gradient_->Entries(false).size());
}

int64_t Table::ReadGradient(int64_t capacity, double divisor, int64_t* rows,
                            std::byte* values) const {
  ReadLock lock(mutex_);
  std::vector<Gradient::Entry> entries = gradient_->Entries(true);
  if (static_cast<int64_t>(entries.size()) > capacity) entries.resize(capacity);
  const size_t bytes = gradient_->row_bytes();
  const int64_t dim = schema_.slots()[0].count;
  for (size_t i = 0; i < entries.size(); ++i) {
    rows[i] = entries[i].row;
    std::memcpy(values + i * bytes, gradient_->At(entries[i].index), bytes);
  }
  if (divisor == 1) return static_cast<int64_t>(entries.size());
  const int64_t count = static_cast<int64_t>(entries.size()) * dim;
  if (AccumulatorOf(options_.dtype) == DType::kFloat64) {
    auto* wide = reinterpret_cast<double*>(values);
    for (int64_t i = 0; i < count; ++i) wide[i] /= divisor;
  } else {
    auto* narrow = reinterpret_cast<float*>(values);
    for (int64_t i = 0; i < count; ++i) narrow[i] /= static_cast<float>(divisor);
  }
  return static_cast<int64_t>(entries.size());
}

void Table::ClearGradient() {
  WriteLock lock(mutex_);
  gradient_->Clear();
}

Status Table::Step(const RuleParams& params, const std::vector<int>& states) {
  const WriteLock lock = LockToChange();
  RECIS_RETURN_IF_ERROR(records_->Changeable());
  Result<RecordPlaces> places = PlacesOf(options_, schema_, params, states);
  if (!places.ok()) return places.status();
  UpdateArgs shared{};
  shared.dim = schema_.slots()[0].count;
  shared.dtype = options_.dtype;
  shared.places = places.value();
  shared.params = &params;
  const std::vector<Gradient::Entry> entries = gradient_->Entries(false);
  std::vector<Row> rows(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) rows[i] = entries[i].row;
  const size_t used = schema_.used_bytes();
  const auto update = [&](int64_t begin, int64_t end) {
    std::byte* records[2][kUpdateRows];
    const void* gradients[2][kUpdateRows];
    const auto fetch = [&](int64_t first, int half) {
      const int64_t count = std::min<int64_t>(kUpdateRows, end - first);
      for (int64_t k = 0; k < count; ++k) {
        const Gradient::Entry& entry = entries[first + k];
        records[half][k] = records_->At(entry.row);
        gradients[half][k] = gradient_->At(entry.index);
        for (size_t i = 0; i < used; i += kCacheLine) {
          __builtin_prefetch(records[half][k] + i, 1);
        }
      }
    };
    UpdateArgs args = shared;
    int half = 0;
    fetch(begin, half);
    for (int64_t i = begin; i < end; i += kUpdateRows, half ^= 1) {
      if (i + kUpdateRows < end) fetch(i + kUpdateRows, half ^ 1);
      args.records = records[half];
      args.gradients = gradients[half];
      args.n = std::min<int64_t>(kUpdateRows, end - i);
      ActiveKernels().update(args);
    }
  };
  RECIS_RETURN_IF_ERROR(BeforeChange(rows.data(), static_cast<int64_t>(rows.size())));
  return records_->Update(rows.data(), static_cast<int64_t>(rows.size()), Records::Use::kChange,
                          [&](int64_t first, int64_t count) {
                            ParallelFor(count, kRowGrain / 4, [&](int64_t begin, int64_t end) {
                              update(first + begin, first + end);
                            });
                          });
}

}  // namespace recis
