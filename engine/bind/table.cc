// The table in memory or in a store.
#include "table/table.h"

#include <memory>
#include <string>
#include <vector>

#include "bind/table_methods.h"

namespace recis::bind {
namespace {

std::shared_ptr<Table> MakeTable(std::string name, int dtype, std::vector<int64_t> shape,
                                 int64_t block_rows, const DrawArgs& draw,
                                 std::shared_ptr<Store> store) {
  TableOptions options = OptionsOf(std::move(name), dtype, std::move(shape), block_rows, draw);
  return ValueOrThrow(store ? Table::Make(std::move(options), std::move(store))
                            : Table::Make(std::move(options)));
}

// Memory of one block of a slot, for a strided view of it.
struct ExportedBlock {
  BlockView view;
  int64_t bytes;
};

ExportedBlock ExportBlock(const Table& table, int slot, int64_t block) {
  const BlockView view = ValueOrThrow(table.View(slot, block));
  const int64_t last = (table.options().block_rows - 1) * view.row_stride_bytes;
  const auto bytes = static_cast<int64_t>(table.Slots()[static_cast<size_t>(slot)].bytes());
  return {view, last + bytes};
}

}  // namespace

void InitTable(py::module_& module) {
  py::class_<ExportedBlock>(module, "Block", py::buffer_protocol())
      .def_property_readonly("row_stride_bytes",
                             [](const ExportedBlock& b) { return b.view.row_stride_bytes; })
      .def_buffer([](ExportedBlock& b) {
        return py::buffer_info(reinterpret_cast<uint8_t*>(b.view.data), b.bytes);
      });
  py::class_<Table, std::shared_ptr<Table>> bound(module, "Table");
  bound
      .def(py::init(&MakeTable), py::arg("name"), py::arg("dtype"), py::arg("shape"),
           py::arg("block_rows"), py::arg("draw"), py::arg("store").none(true), Unlocked())
      .def(
          "prefetch",
          [](Table& t, uintptr_t ids, int64_t n) {
            ThrowIfError(t.Prefetch(Address<const int64_t>(ids), n));
          },
          py::arg("ids"), py::arg("n"), Unlocked())
      .def("block", &ExportBlock, py::arg("slot"), py::arg("block"), Unlocked());
  BindTable<Table, Batch, /*kStreams=*/true>(bound);
}

}  // namespace recis::bind
