// The methods that tables have in common, wherever they live: bound once for all of them.
//
// A template, since what they give differs: a table in memory answers where one on a device may
// fail, and a batch of the one is no batch of the other.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "table/admission.h"
#include "table/checks.h"
#include "table/table_stats.h"

namespace recis::bind {

inline TableOptions OptionsOf(std::string name, int dtype, std::vector<int64_t> shape,
                              int64_t block_rows, const DrawArgs& draw) {
  return {.name = std::move(name),
          .dtype = static_cast<DType>(dtype),
          .shape = std::move(shape),
          .block_rows = block_rows,
          .draw = draw};
}

template <class Table>
py::dict StatsDict(const Table& table) {
  TableStats stats;
  {
    py::gil_scoped_release unlocked;
    stats = Told([&] { return table.Stats(); });
  }
  py::dict out;
  out["rows"] = stats.rows;
  out["lookups"] = stats.lookups;
  out["hits"] = stats.hits;
  out["misses"] = stats.misses;
  out["admits"] = stats.admits;
  out["refusals"] = stats.refusals;
  out["evictions"] = stats.evictions;
  out["hot_rows"] = stats.hot_rows;
  out["cold_rows"] = stats.cold_rows;
  out["hot_bytes"] = stats.hot_bytes;
  out["cold_bytes"] = stats.cold_bytes;
  out["promotes"] = stats.promotes;
  out["spills"] = stats.spills;
  out["drops"] = stats.drops;
  out["index_bytes"] = stats.index_bytes;
  out["gradient_rows"] = stats.gradient_rows;
  return out;
}

// kStreams: whether outputs can be written past the processor's cache.
template <class Table, class Batch, bool kStreams>
void BindLookups(py::class_<Table, std::shared_ptr<Table>>& bound) {
  bound
      .def(
          "read",
          [](const Table& t, uintptr_t ids, int64_t n, uintptr_t out, bool stream) {
            const auto* from = Address<const int64_t>(ids);
            if constexpr (kStreams) {
              ThrowIfError(t.Read(from, n, Address<std::byte>(out), stream));
            } else {
              ThrowIfError(t.Read(from, n, Address<std::byte>(out)));
            }
          },
          py::arg("ids"), py::arg("n"), py::arg("out"), py::arg("stream"), Unlocked())
      .def(
          "lookup",
          [](Table& t, uintptr_t ids, int64_t n, AdmissionPolicy* policy, uintptr_t out,
             bool stream, uintptr_t times) {
            const auto* from = Address<const int64_t>(ids);
            const auto* each = Address<const uint32_t>(times);
            if constexpr (kStreams) {
              return ValueOrThrow(t.Lookup(from, n, policy, Address<std::byte>(out), stream, each));
            } else {
              return ValueOrThrow(t.Lookup(from, n, policy, Address<std::byte>(out), each));
            }
          },
          py::arg("ids"), py::arg("n"), py::arg("policy").none(true), py::arg("out"),
          py::arg("stream"), py::arg("times"), Unlocked())
      .def(
          "find",
          [](const Table& t, uintptr_t ids, int64_t n, uintptr_t times) {
            return ValueOrThrow(
                t.Find(Address<const int64_t>(ids), n, Address<const uint32_t>(times)));
          },
          py::arg("ids"), py::arg("n"), py::arg("times"), Unlocked())
      .def(
          "admit",
          [](Table& t, Batch& batch, uintptr_t admit) {
            ThrowIfError(t.AdmitFound(batch, Address<const bool>(admit)));
          },
          py::arg("batch"), py::arg("admit"), Unlocked())
      .def(
          "gather",
          [](const Table& t, Batch& batch, uintptr_t out, bool stream) {
            if constexpr (kStreams) {
              ThrowIfError(t.Gather(batch, Address<std::byte>(out), stream));
            } else {
              ThrowIfError(t.Gather(batch, Address<std::byte>(out)));
            }
          },
          py::arg("batch"), py::arg("out"), py::arg("stream"), Unlocked())
      .def(
          "contains",
          [](const Table& t, uintptr_t ids, int64_t n, uintptr_t out) {
            Told([&] { return t.Contains(Address<const int64_t>(ids), n, Address<bool>(out)); });
          },
          py::arg("ids"), py::arg("n"), py::arg("out"), Unlocked())
      .def(
          "rows",
          [](const Table& t, uintptr_t ids, int64_t n, uintptr_t rows) {
            Told([&] { return t.Rows(Address<const int64_t>(ids), n, Address<int64_t>(rows)); });
          },
          py::arg("ids"), py::arg("n"), py::arg("rows"), Unlocked());
}

template <class Table>
void BindChanges(py::class_<Table, std::shared_ptr<Table>>& bound) {
  bound
      .def(
          "insert",
          [](Table& t, uintptr_t ids, int64_t n, uintptr_t values) {
            return ValueOrThrow(
                t.Insert(Address<const int64_t>(ids), n, Address<const std::byte>(values)));
          },
          py::arg("ids"), py::arg("n"), py::arg("values"), Unlocked())
      .def(
          "evict",
          [](Table& t, uintptr_t ids, int64_t n) {
            return ValueOrThrow(t.Evict(Address<const int64_t>(ids), n));
          },
          py::arg("ids"), py::arg("n"), Unlocked())
      .def(
          "clear", [](Table& t) { ThrowIfError(t.Clear()); }, Unlocked())
      .def(
          "track", [](Table& t, bool on) { ThrowIfError(t.Track(on)); }, py::arg("on"), Unlocked())
      .def(
          "cut",
          [](Table& t, bool delta, int64_t pool_bytes) {
            return ValueOrThrow(t.TakeCut(delta, pool_bytes));
          },
          py::arg("delta"), py::arg("pool_bytes"), Unlocked())
      .def(
          "restore",
          [](Table& t, uintptr_t ids, int64_t n, const std::vector<int>& slots,
             const std::vector<uintptr_t>& addresses) {
            std::vector<const std::byte*> values;
            for (const uintptr_t address : addresses) {
              values.push_back(Address<const std::byte>(address));
            }
            ThrowIfError(t.Restore(Address<const int64_t>(ids), n, slots, values));
          },
          py::arg("ids"), py::arg("n"), py::arg("slots"), py::arg("addresses"), Unlocked());
}

template <class Table, class Batch>
void BindTraining(py::class_<Table, std::shared_ptr<Table>>& bound) {
  bound
      .def(
          "accumulate",
          [](Table& t, const Batch& batch, uintptr_t values, int dtype, bool mean, double divisor) {
            ThrowIfError(t.Accumulate(batch, Address<const void>(values), static_cast<DType>(dtype),
                                      mean, divisor));
          },
          py::arg("batch"), py::arg("values"), py::arg("dtype"), py::arg("mean"),
          py::arg("divisor"), Unlocked())
      .def(
          "accumulate_rows",
          [](Table& t, uintptr_t rows, int64_t n, uintptr_t values, int dtype) {
            ThrowIfError(t.AccumulateRows(Address<const int64_t>(rows), n,
                                          Address<const void>(values), static_cast<DType>(dtype)));
          },
          py::arg("rows"), py::arg("n"), py::arg("values"), py::arg("dtype"), Unlocked())
      .def(
          "has_gradient", [](const Table& t) { return Told([&] { return t.HasGradient(); }); },
          Unlocked())
      .def(
          "gradient_rows", [](const Table& t) { return Told([&] { return t.GradientRows(); }); },
          Unlocked())
      .def(
          "read_gradient",
          [](const Table& t, int64_t capacity, double divisor, uintptr_t rows, uintptr_t values) {
            return Told([&] {
              return t.ReadGradient(capacity, divisor, Address<int64_t>(rows),
                                    Address<std::byte>(values));
            });
          },
          py::arg("capacity"), py::arg("divisor"), py::arg("rows"), py::arg("values"), Unlocked())
      .def(
          "clear_gradient", [](Table& t) { Told([&] { return t.ClearGradient(); }); }, Unlocked())
      .def(
          "step",
          [](Table& t, const RuleParams& params, const std::vector<int>& states) {
            ThrowIfError(t.Step(params, states));
          },
          py::arg("params"), py::arg("states"), Unlocked());
}

template <class Table>
void BindSlots(py::class_<Table, std::shared_ptr<Table>>& bound) {
  bound
      .def(
          "add_slot",
          [](Table& t, std::string name, int dtype, std::vector<int64_t> shape, double initial) {
            Slot slot;
            slot.name = std::move(name);
            slot.dtype = static_cast<DType>(dtype);
            slot.shape = std::move(shape);
            slot.initial = initial;
            return ValueOrThrow(t.AddSlot(std::move(slot)));
          },
          py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("initial"), Unlocked())
      .def("slots", &Table::Slots, Unlocked())
      .def(
          "read_slot",
          [](const Table& t, int slot, uintptr_t rows, int64_t n, uintptr_t values) {
            ThrowIfError(
                t.ReadSlot(slot, Address<const int64_t>(rows), n, Address<std::byte>(values)));
          },
          py::arg("slot"), py::arg("rows"), py::arg("n"), py::arg("values"), Unlocked())
      .def(
          "write_slot",
          [](Table& t, int slot, uintptr_t rows, int64_t n, uintptr_t values) {
            ThrowIfError(t.WriteSlot(slot, Address<const int64_t>(rows), n,
                                     Address<const std::byte>(values)));
          },
          py::arg("slot"), py::arg("rows"), py::arg("n"), py::arg("values"), Unlocked())
      .def(
          "add_to_slot",
          [](Table& t, int slot, uintptr_t rows, int64_t n, uintptr_t values) {
            ThrowIfError(
                t.AddToSlot(slot, Address<const int64_t>(rows), n, Address<const int64_t>(values)));
          },
          py::arg("slot"), py::arg("rows"), py::arg("n"), py::arg("values"), Unlocked())
      .def(
          "read_whole_slot",
          [](const Table& t, int slot, int64_t capacity, uintptr_t values) {
            ThrowIfError(t.ReadWholeSlot(slot, capacity, Address<std::byte>(values)));
          },
          py::arg("slot"), py::arg("capacity"), py::arg("values"), Unlocked());
}

template <class Table>
void BindContent(py::class_<Table, std::shared_ptr<Table>>& bound) {
  bound.def(
           "size", [](const Table& t) { return Told([&] { return t.size(); }); }, Unlocked())
      .def(
          "capacity", [](const Table& t) { return Told([&] { return t.Capacity(); }); }, Unlocked())
      .def(
          "ids_map",
          [](const Table& t, int64_t capacity, uintptr_t ids, uintptr_t rows) {
            return Told(
                [&] { return t.IdsMap(capacity, Address<int64_t>(ids), Address<int64_t>(rows)); });
          },
          py::arg("capacity"), py::arg("ids"), py::arg("rows"), Unlocked())
      .def("stats", &StatsDict<Table>);
}

template <class Table, class Batch, bool kStreams>
void BindTable(py::class_<Table, std::shared_ptr<Table>>& bound) {
  BindLookups<Table, Batch, kStreams>(bound);
  BindChanges(bound);
  BindTraining<Table, Batch>(bound);
  BindSlots(bound);
  BindContent(bound);
}

}  // namespace recis::bind
