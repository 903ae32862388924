// What a lookup found: a Batch, or that of a table on a device. Answers go to memory of the host.
#include "table/batch.h"

#include <cstring>
#include <memory>
#include <vector>

#include "bind/bind.h"
#include "table/cached_table.h"
#include "table/device_batch.h"
#include "table/numbering.h"

namespace recis::bind {
namespace {

const Batch* OnHost(const Batch& batch) { return &batch; }
std::shared_ptr<Batch> OnHost(const auto& batch) { return ValueOrThrow(batch.OnHost()); }

int64_t CountDistinct(const Batch& batch) { return batch.distinct; }
int64_t CountDistinct(const auto& batch) { return ValueOrThrow(batch.CountDistinct()); }

// What a policy in Python is asked about: the ids without a row and how often each occurs.
int64_t Unknown(const Batch& batch, uintptr_t positions, uintptr_t ids, uintptr_t counts) {
  const std::vector<uint32_t> each = batch.Counts();
  int64_t n = 0;
  for (int64_t i = 0; i < batch.distinct; ++i) {
    if (batch.row_data()[i] != kNoRow) continue;
    Address<int64_t>(positions)[n] = i;
    Address<int64_t>(ids)[n] = batch.id_data()[i];
    Address<int64_t>(counts)[n++] = each[i];
  }
  return n;
}

// The rows of the distinct ids that have one, and how often each occurs.
int64_t KnownRows(const Batch& batch, uintptr_t rows, uintptr_t counts) {
  const std::vector<uint32_t> each = batch.Counts();
  int64_t n = 0;
  for (int64_t i = 0; i < batch.distinct; ++i) {
    if (batch.row_data()[i] == kNoRow) continue;
    Address<int64_t>(rows)[n] = batch.row_data()[i];
    Address<int64_t>(counts)[n++] = each[i];
  }
  return n;
}

// For each position, how often its id occurs.
void CountsByPosition(const Batch& batch, uintptr_t out) {
  const std::vector<uint32_t> counts = batch.Counts();
  for (int64_t i = 0; i < batch.size; ++i) {
    Address<int64_t>(out)[i] = counts[batch.inverse_data()[i]];
  }
}

// Numbers the distinct ids of a batch in the order of their first occurrence: which they are, which
// one each position holds, and how often each occurs. Returns how many there are.
// REQUIRES: counts are zeros.
int64_t Distinct(uintptr_t ids, int64_t n, uintptr_t distinct, uintptr_t inverse,
                 uintptr_t counts) {
  Numbering numbers(n);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t number = numbers.Number(Address<const int64_t>(ids)[i]);
    Address<int64_t>(inverse)[i] = number;
    ++Address<int64_t>(counts)[number];
  }
  std::memcpy(Address<int64_t>(distinct), numbers.ids(), numbers.size() * sizeof(int64_t));
  return numbers.size();
}

template <class B>
void BindBatch(py::module_& module, const char* name) {
  py::class_<B, std::shared_ptr<B>>(module, name)
      .def_readonly("size", &B::size)
      .def(
          "count_distinct", [](const B& batch) { return CountDistinct(batch); }, Unlocked())
      .def(
          "unknown",
          [](const B& batch, uintptr_t positions, uintptr_t ids, uintptr_t counts) {
            return Unknown(*OnHost(batch), positions, ids, counts);
          },
          py::arg("positions"), py::arg("ids"), py::arg("counts"), Unlocked())
      .def(
          "known_rows",
          [](const B& batch, uintptr_t rows, uintptr_t counts) {
            return KnownRows(*OnHost(batch), rows, counts);
          },
          py::arg("rows"), py::arg("counts"), Unlocked())
      .def(
          "counts", [](const B& batch, uintptr_t out) { CountsByPosition(*OnHost(batch), out); },
          py::arg("out"), Unlocked());
}

}  // namespace

void InitBatch(py::module_& module) {
  BindBatch<Batch>(module, "Batch");
  BindBatch<DeviceBatch>(module, "DeviceBatch");
  BindBatch<CachedBatch>(module, "CachedBatch");
  module.def("distinct", &Distinct, py::arg("ids"), py::arg("n"), py::arg("distinct"),
             py::arg("inverse"), py::arg("counts"), Unlocked());
}

}  // namespace recis::bind
