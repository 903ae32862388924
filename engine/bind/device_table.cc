// The table on a GPU or on the emulated device.
#include "table/device_table.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bind/table_methods.h"

namespace recis::bind {
namespace {

std::shared_ptr<DeviceTable> MakeTable(std::string name, int dtype, std::vector<int64_t> shape,
                                       int64_t block_rows, const DrawArgs& draw,
                                       std::optional<int> gpu) {
  return ValueOrThrow(DeviceTable::Make(
      OptionsOf(std::move(name), dtype, std::move(shape), block_rows, draw), DeviceOf(gpu)));
}

}  // namespace

void InitDeviceTable(py::module_& module) {
  py::class_<DeviceTable, std::shared_ptr<DeviceTable>> bound(module, "DeviceTable");
  bound.def(py::init(&MakeTable), py::arg("name"), py::arg("dtype"), py::arg("shape"),
            py::arg("block_rows"), py::arg("draw"), py::arg("gpu").none(true), Unlocked());
  BindTable<DeviceTable, DeviceBatch, /*kStreams=*/false>(bound);
  module.def(
      "check_cuda", [](int index) { ValueOrThrow(CudaSpace(index)); }, py::arg("index"),
      Unlocked());
  module.def(
      "use_stream", [](uintptr_t stream) { UseStream(Address<void>(stream)); }, py::arg("stream"));
}

}  // namespace recis::bind
