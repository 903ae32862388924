// The table, its batches and its slots.
#include "table/table.h"

#include <pybind11/native_enum.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bind/bind.h"
#include "table/numbering.h"

namespace recis::bind {
namespace {

std::shared_ptr<Table> MakeTable(std::string name, int dtype, std::vector<int64_t> shape,
                                 int64_t block_rows, const DrawArgs& draw,
                                 std::shared_ptr<Store> store) {
  TableOptions options{.name = std::move(name),
                       .dtype = static_cast<DType>(dtype),
                       .shape = std::move(shape),
                       .block_rows = block_rows,
                       .draw = draw};
  return ValueOrThrow(store ? Table::Make(std::move(options), std::move(store))
                            : Table::Make(std::move(options)));
}

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

// Memory of one block of a slot, for a strided view of it.
struct ExportedBlock {
  BlockView view;
  int64_t bytes;
};

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

void InitBatch(py::module_& module) {
  py::class_<Batch, std::shared_ptr<Batch>>(module, "Batch")
      .def_readonly("size", &Batch::size)
      .def_readonly("distinct", &Batch::distinct)
      .def("unknown", &Unknown, py::arg("positions"), py::arg("ids"), py::arg("counts"), Unlocked())
      .def("known_rows", &KnownRows, py::arg("rows"), py::arg("counts"), Unlocked())
      .def("counts", &CountsByPosition, py::arg("out"), Unlocked());
  module.def("distinct", &Distinct, py::arg("ids"), py::arg("n"), py::arg("distinct"),
             py::arg("inverse"), py::arg("counts"), Unlocked());
}

void InitSettings(py::module_& module) {
  py::native_enum<Distribution>(module, "Distribution", "enum.Enum")
      .value("CONSTANT", Distribution::kConstant)
      .value("UNIFORM", Distribution::kUniform)
      .value("NORMAL", Distribution::kNormal)
      .value("TRUNCATED_NORMAL", Distribution::kTruncatedNormal)
      .finalize();
  py::class_<DrawArgs>(module, "Draw")
      .def(py::init([](Distribution distribution, double shift, double scale, double low,
                       double high, uint64_t seed) {
             DrawArgs args{distribution, shift, scale, low, high, seed};
             if (distribution == Distribution::kTruncatedNormal) {
               args.low = NormalProbability(low);
               args.high = NormalProbability(high);
             }
             return args;
           }),
           py::arg("distribution"), py::arg("shift"), py::arg("scale"), py::arg("low"),
           py::arg("high"), py::arg("seed"))
      .def(
          "write",
          [](const DrawArgs& draw, int64_t id, int dtype, int64_t count, uintptr_t out) {
            ActiveKernels().draw(draw, id, static_cast<DType>(dtype), count,
                                 Address<std::byte>(out));
          },
          py::arg("id"), py::arg("dtype"), py::arg("count"), py::arg("out"), Unlocked());

  py::native_enum<Rule>(module, "Rule", "enum.Enum")
      .value("SGD", Rule::kSgd)
      .value("ADAGRAD", Rule::kAdagrad)
      .value("ROW_WISE_ADAGRAD", Rule::kRowWiseAdagrad)
      .value("ADAM", Rule::kAdam)
      .finalize();
  py::class_<RuleParams>(module, "RuleParams")
      .def(py::init([](Rule rule, double step_size, double weight_decay, double decay,
                       double momentum, double beta1, double beta2, double eps, double divisor,
                       bool amsgrad, bool nesterov) {
             return RuleParams{rule,  step_size, weight_decay, decay,   momentum, beta1,
                               beta2, eps,       divisor,      amsgrad, nesterov};
           }),
           py::arg("rule"), py::kw_only(), py::arg("step_size"), py::arg("weight_decay") = 0.0,
           py::arg("decay") = 1.0, py::arg("momentum") = 0.0, py::arg("beta1") = 0.0,
           py::arg("beta2") = 0.0, py::arg("eps") = 0.0, py::arg("divisor") = 1.0,
           py::arg("amsgrad") = false, py::arg("nesterov") = false);

  py::class_<Slot>(module, "Slot")
      .def_readonly("name", &Slot::name)
      .def_property_readonly("dtype", [](const Slot& s) { return static_cast<int>(s.dtype); })
      .def_readonly("shape", &Slot::shape)
      .def_readonly("initial", &Slot::initial)
      .def_readonly("count", &Slot::count);

  py::class_<ExportedBlock>(module, "Block", py::buffer_protocol())
      .def_property_readonly("row_stride_bytes",
                             [](const ExportedBlock& b) { return b.view.row_stride_bytes; })
      .def_buffer([](ExportedBlock& b) {
        return py::buffer_info(reinterpret_cast<uint8_t*>(b.view.data), b.bytes);
      });
}

py::dict StatsDict(const Table& table) {
  TableStats stats;
  {
    py::gil_scoped_release unlocked;
    stats = table.Stats();
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

ExportedBlock ExportBlock(const Table& table, int slot, int64_t block) {
  const BlockView view = ValueOrThrow(table.View(slot, block));
  const int64_t last = (table.options().block_rows - 1) * view.row_stride_bytes;
  const auto bytes = static_cast<int64_t>(table.Slots()[static_cast<size_t>(slot)].bytes());
  return {view, last + bytes};
}

}  // namespace

void InitTable(py::module_& module) {
  InitBatch(module);
  InitSettings(module);
  py::class_<Table, std::shared_ptr<Table>>(module, "Table")
      .def(py::init(&MakeTable), py::arg("name"), py::arg("dtype"), py::arg("shape"),
           py::arg("block_rows"), py::arg("draw"), py::arg("store").none(true), Unlocked())
      .def(
          "read",
          [](const Table& t, uintptr_t ids, int64_t n, uintptr_t out, bool stream) {
            ThrowIfError(t.Read(Address<const int64_t>(ids), n, Address<std::byte>(out), stream));
          },
          py::arg("ids"), py::arg("n"), py::arg("out"), py::arg("stream"), Unlocked())
      .def(
          "lookup",
          [](Table& t, uintptr_t ids, int64_t n, AdmissionPolicy* policy, uintptr_t out,
             bool stream, uintptr_t times) {
            return ValueOrThrow(t.Lookup(Address<const int64_t>(ids), n, policy,
                                         Address<std::byte>(out), stream,
                                         Address<const uint32_t>(times)));
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
            ThrowIfError(t.Gather(batch, Address<std::byte>(out), stream));
          },
          py::arg("batch"), py::arg("out"), py::arg("stream"), Unlocked())
      .def(
          "contains",
          [](const Table& t, uintptr_t ids, int64_t n, uintptr_t out) {
            t.Contains(Address<const int64_t>(ids), n, Address<bool>(out));
          },
          py::arg("ids"), py::arg("n"), py::arg("out"), Unlocked())
      .def(
          "rows",
          [](const Table& t, uintptr_t ids, int64_t n, uintptr_t rows) {
            t.Rows(Address<const int64_t>(ids), n, Address<int64_t>(rows));
          },
          py::arg("ids"), py::arg("n"), py::arg("rows"), Unlocked())
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
      .def("track", &Table::Track, py::arg("on"), Unlocked())
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
          py::arg("ids"), py::arg("n"), py::arg("slots"), py::arg("addresses"), Unlocked())
      .def(
          "prefetch",
          [](Table& t, uintptr_t ids, int64_t n) {
            ThrowIfError(t.Prefetch(Address<const int64_t>(ids), n));
          },
          py::arg("ids"), py::arg("n"), Unlocked())
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
      .def("gradient_rows", &Table::GradientRows, Unlocked())
      .def(
          "read_gradient",
          [](const Table& t, int64_t capacity, double divisor, uintptr_t rows, uintptr_t values) {
            return t.ReadGradient(capacity, divisor, Address<int64_t>(rows),
                                  Address<std::byte>(values));
          },
          py::arg("capacity"), py::arg("divisor"), py::arg("rows"), py::arg("values"), Unlocked())
      .def("clear_gradient", &Table::ClearGradient, Unlocked())
      .def(
          "step",
          [](Table& t, const RuleParams& params, const std::vector<int>& states) {
            ThrowIfError(t.Step(params, states));
          },
          py::arg("params"), py::arg("states"), Unlocked())
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
          py::arg("slot"), py::arg("capacity"), py::arg("values"), Unlocked())
      .def("block", &ExportBlock, py::arg("slot"), py::arg("block"), Unlocked())
      .def("__len__", &Table::size, Unlocked())
      .def("capacity", &Table::Capacity, Unlocked())
      .def(
          "ids_map",
          [](const Table& t, int64_t capacity, uintptr_t ids, uintptr_t rows) {
            return t.IdsMap(capacity, Address<int64_t>(ids), Address<int64_t>(rows));
          },
          py::arg("capacity"), py::arg("ids"), py::arg("rows"), Unlocked())
      .def("stats", &StatsDict);
}

}  // namespace recis::bind
