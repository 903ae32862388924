// The table in a store with records on a GPU or on the emulated device.
#include "table/cached_table.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bind/table_methods.h"

namespace recis::bind {
namespace {

// bytes: of records on the device.
std::shared_ptr<CachedTable> MakeTable(std::string name, int dtype, std::vector<int64_t> shape,
                                       int64_t block_rows, const DrawArgs& draw,
                                       std::optional<int> gpu, const std::shared_ptr<Store>& store,
                                       int64_t bytes) {
  return ValueOrThrow(
      CachedTable::Make(OptionsOf(std::move(name), dtype, std::move(shape), block_rows, draw),
                        store, DeviceOf(gpu), bytes));
}

py::dict CacheStatsDict(const CachedTable& table) {
  CacheStats stats;
  {
    py::gil_scoped_release unlocked;
    stats = table.OfCache();
  }
  py::dict out;
  out["device_rows"] = stats.rows;
  out["device_bytes"] = stats.bytes;
  out["device_promotes"] = stats.promotes;
  out["device_spills"] = stats.spills;
  out["device_drops"] = stats.drops;
  out["write_backs"] = stats.write_backs;
  return out;
}

}  // namespace

void InitCachedTable(py::module_& module) {
  py::class_<Prefetched, std::shared_ptr<Prefetched>>(module, "Prefetched");
  py::class_<CachedTable, std::shared_ptr<CachedTable>> bound(module, "CachedTable");
  bound
      .def(py::init(&MakeTable), py::arg("name"), py::arg("dtype"), py::arg("shape"),
           py::arg("block_rows"), py::arg("draw"), py::arg("gpu").none(true), py::arg("store"),
           py::arg("bytes"), Unlocked())
      .def(
          "prefetch",
          [](CachedTable& t, uintptr_t ids, int64_t n) {
            return ValueOrThrow(t.Prefetch(Address<const int64_t>(ids), n));
          },
          py::arg("ids"), py::arg("n"), Unlocked())
      .def(
          "lookup_prefetched",
          [](CachedTable& t, Prefetched& prefetched, AdmissionPolicy* policy, uintptr_t out) {
            return ValueOrThrow(t.Lookup(prefetched, policy, Address<std::byte>(out)));
          },
          py::arg("prefetched"), py::arg("policy").none(true), py::arg("out"), Unlocked())
      .def("cache_stats", &CacheStatsDict);
  BindTable<CachedTable, CachedBatch, /*kStreams=*/false>(bound);
}

}  // namespace recis::bind
