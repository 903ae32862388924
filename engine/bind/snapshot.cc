// Cuts of tables, the files written from them, and lookups in those.
#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "snapshot/find.h"
#include "snapshot/merge.h"
#include "snapshot/part_writer.h"
#include "table/cut.h"
#define XXH_STATIC_LINKING_ONLY  // for a state of known size
#include "xxhash.h"

namespace recis::bind {
namespace {

PartRange RangeOf(uint32_t slices, uint32_t begin, uint32_t end) {
  if (slices == 0 || begin > end || end > slices) {
    ThrowIfError(InvalidArgument("there are no slices [" + std::to_string(begin) + ", " +
                                 std::to_string(end) + ") of " + std::to_string(slices)));
  }
  return {slices, begin, end};
}

// A checksum of bytes that come piece by piece.
class Xxh3 {
 public:
  Xxh3() { XXH3_64bits_reset(&state_); }
  void Update(uintptr_t address, size_t bytes) {
    XXH3_64bits_update(&state_, Address<const void>(address), bytes);
  }
  uint64_t Digest() const { return XXH3_64bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

// Ids alone, as a part that has no slots.
class IdsSource : public SnapshotSource {
 public:
  IdsSource(const int64_t* ids, int64_t n) : ids_(ids), n_(n) {}

  const std::vector<Slot>& slots() const override { return slots_; }
  Status CountSlices(uint32_t slices, int64_t* counts) const override {
    for (int64_t i = 0; i < n_; ++i) ++counts[SliceOf(ids_[i], slices)];
    return {};
  }
  Status List(uint32_t slices, uint32_t begin, uint32_t end,
              std::vector<RowOfId>* rows) const override {
    for (int64_t i = 0; i < n_; ++i) {
      const uint32_t slice = SliceOf(ids_[i], slices);
      if (slice >= begin && slice < end) rows->push_back({ids_[i], kNoRow});
    }
    SortBySlice(slices, begin, end, rows);
    return {};
  }
  Status Gather(const RowOfId*, int64_t, const std::vector<std::byte*>&) const override {
    return {};
  }
  void Done(uint32_t, uint32_t, uint32_t) override {}

 private:
  const std::vector<Slot> slots_;
  const int64_t* const ids_;
  const int64_t n_;
};

int64_t ReadRows(const Cut& cut, uint32_t slices, uint32_t begin, uint32_t end, int64_t capacity,
                 uintptr_t ids, const std::vector<uintptr_t>& slots) {
  RangeOf(slices, begin, end);
  std::vector<RowOfId> rows;
  ThrowIfError(cut.List(slices, begin, end, &rows));
  const auto n = static_cast<int64_t>(rows.size());
  if (n > capacity || slots.size() != cut.slots().size()) {
    ThrowIfError(InvalidArgument("expected room for " + std::to_string(n) + " rows of " +
                                 std::to_string(cut.slots().size()) + " slots, found it for " +
                                 std::to_string(capacity) + " of " + std::to_string(slots.size())));
  }
  std::vector<std::byte*> values;
  for (const uintptr_t slot : slots) values.push_back(Address<std::byte>(slot));
  ThrowIfError(cut.Gather(rows.data(), n, values));
  for (int64_t i = 0; i < n; ++i) Address<int64_t>(ids)[i] = rows[i].id;
  return n;
}

void InitCut(py::module_& module) {
  py::class_<Cut, std::shared_ptr<Cut>>(module, "Cut")
      .def("slots", &Cut::slots)
      .def_property_readonly("rows", &Cut::rows)
      .def_property_readonly("deleted_rows", [](const Cut& cut) { return cut.deleted().size(); })
      .def(
          "deleted",
          [](const Cut& cut, int64_t capacity, uintptr_t ids) {
            const auto n = std::min(capacity, static_cast<int64_t>(cut.deleted().size()));
            std::copy_n(cut.deleted().data(), n, Address<int64_t>(ids));
            return n;
          },
          py::arg("capacity"), py::arg("ids"))
      .def(
          "count_slices",
          [](const Cut& cut, uint32_t slices, uintptr_t counts) {
            RangeOf(slices, 0, 0);
            ThrowIfError(cut.CountSlices(slices, Address<int64_t>(counts)));
          },
          py::arg("slice_size"), py::arg("counts"), Unlocked())
      .def("read", &ReadRows, py::arg("slice_size"), py::arg("begin"), py::arg("end"),
           py::arg("capacity"), py::arg("ids"), py::arg("slots"), Unlocked())
      .def(
          "write_part",
          [](Cut& cut, const std::string& path, uint64_t offset, uint32_t slices, uint32_t begin,
             uint32_t end) {
            return ValueOrThrow(WritePart(cut, path, offset, RangeOf(slices, begin, end)));
          },
          py::arg("path"), py::arg("data_offset"), py::arg("slice_size"), py::arg("begin"),
          py::arg("end"), Unlocked())
      .def("close", &Cut::Close, Unlocked())
      .def("abandon", &Cut::Abandon, Unlocked());
}

}  // namespace

void InitSnapshot(py::module_& module) {
  InitCut(module);
  module.def(
      "write_ids",
      [](const std::string& path, uint64_t offset, uint32_t slices, uint32_t begin, uint32_t end,
         uintptr_t ids, int64_t n) {
        IdsSource source(Address<const int64_t>(ids), n);
        return ValueOrThrow(WritePart(source, path, offset, RangeOf(slices, begin, end)));
      },
      py::arg("path"), py::arg("data_offset"), py::arg("slice_size"), py::arg("begin"),
      py::arg("end"), py::arg("ids"), py::arg("n"), Unlocked());
  module.def(
      "find_sorted",
      [](uintptr_t ids, int64_t n, uint32_t slices, uint32_t begin, uint32_t end,
         uintptr_t slice_offsets, uintptr_t sorted_ids, int64_t size, uintptr_t rows) {
        FindSorted({RangeOf(slices, begin, end), Address<const int64_t>(slice_offsets),
                    Address<const int64_t>(sorted_ids), size},
                   Address<const int64_t>(ids), n, Address<int64_t>(rows));
      },
      py::arg("ids"), py::arg("n"), py::arg("slice_size"), py::arg("slice_begin"),
      py::arg("slice_end"), py::arg("slice_offsets"), py::arg("sorted_ids"), py::arg("size"),
      py::arg("rows"), Unlocked());
  module.def(
      "gather_rows",
      [](uintptr_t source, size_t row_bytes, uintptr_t rows, int64_t n, uintptr_t out) {
        GatherRows(Address<const std::byte>(source), row_bytes, Address<const int64_t>(rows), n,
                   Address<std::byte>(out));
      },
      py::arg("source"), py::arg("row_bytes"), py::arg("rows"), py::arg("n"), py::arg("out"),
      Unlocked());
  module.def(
      "merge",
      [](const std::vector<std::tuple<uintptr_t, int64_t, bool>>& parts, uint32_t slices,
         uintptr_t which, uintptr_t rows) {
        RangeOf(slices, 0, 0);
        std::vector<MergeInput> inputs;
        for (const auto& [ids, size, deleted] : parts) {
          inputs.push_back({Address<const int64_t>(ids), size, deleted});
        }
        return Merge(inputs, slices, Address<int32_t>(which), Address<int64_t>(rows));
      },
      py::arg("inputs"), py::arg("slice_size"), py::arg("which"), py::arg("rows"), Unlocked());
  module.def(
      "gather_merged",
      [](const std::vector<std::pair<uintptr_t, int64_t>>& columns, size_t row_bytes,
         uintptr_t which, uintptr_t rows, int64_t n, uintptr_t out) {
        std::vector<MergeSource> sources;
        for (const auto& [data, first] : columns) {
          sources.push_back({Address<const std::byte>(data), first});
        }
        GatherMerged(sources, row_bytes, Address<const int32_t>(which),
                     Address<const int64_t>(rows), n, Address<std::byte>(out));
      },
      py::arg("sources"), py::arg("row_bytes"), py::arg("which"), py::arg("rows"), py::arg("n"),
      py::arg("out"), Unlocked());
  module.def(
      "xxh3",
      [](uintptr_t address, size_t bytes) {
        return XXH3_64bits(Address<const void>(address), bytes);
      },
      py::arg("address"), py::arg("bytes"), Unlocked());
  py::class_<Xxh3>(module, "Xxh3")
      .def(py::init())
      .def("update", &Xxh3::Update, py::arg("address"), py::arg("bytes"), Unlocked())
      .def("digest", &Xxh3::Digest);
}

}  // namespace recis::bind
