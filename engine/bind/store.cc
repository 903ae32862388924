// The store.
#include "store/store.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bind/bind.h"
#include "table/table.h"

namespace recis::bind {
namespace {

std::shared_ptr<Store> OpenStore(std::string path, std::optional<int64_t> hot_bytes, bool scratch,
                                 bool read_only, bool network, std::optional<uint64_t> epoch) {
  StoreOptions options;
  options.log.path = std::move(path);
  options.log.scratch = scratch;
  options.log.read_only = read_only;
  options.log.network = network;
  options.log.epoch = epoch;
  if (hot_bytes) options.hot_bytes = *hot_bytes;
  return ValueOrThrow(Store::Open(std::move(options)));
}

py::dict StatsDict(const Store& store) {
  StoreStats stats;
  {
    py::gil_scoped_release unlocked;
    stats = store.Stats();
  }
  py::dict out;
  out["hot_bytes"] = stats.hot_bytes;
  out["live_bytes"] = stats.live_bytes;
  out["block_bytes"] = stats.block_bytes;
  out["dead_bytes"] = stats.dead_bytes;
  out["cleaned_bytes"] = stats.cleaned_bytes;
  out["file_bytes"] = stats.log.file_bytes;
  out["free_bytes"] = stats.log.free_bytes;
  out["queued_bytes"] = stats.log.queued_bytes;
  out["bytes_written"] = stats.log.bytes_written;
  out["bytes_read"] = stats.log.bytes_read;
  out["reads"] = stats.log.reads;
  out["transactions"] = stats.log.transactions;
  out["commits"] = stats.commits;
  out["commit_seconds"] = stats.commit_seconds;
  out["commit_stall_seconds"] = stats.commit_stall_seconds;
  return out;
}

std::map<std::string, std::tuple<int64_t, int64_t>> Sizes(const Store& store) {
  std::map<std::string, std::tuple<int64_t, int64_t>> sizes;
  for (const auto& [name, size] : ValueOrThrow(store.Sizes())) {
    sizes[name] = {size.rows, size.live_bytes};
  }
  return sizes;
}

std::vector<std::string> Verify(const Store& store, const py::function& progress) {
  const auto report = [&](int64_t done, int64_t total) {
    const py::gil_scoped_acquire locked;
    progress(done, total);
  };
  const py::gil_scoped_release unlocked;
  return ValueOrThrow(store.Verify(report));
}

}  // namespace

void InitStore(py::module_& module) {
  py::class_<Store, std::shared_ptr<Store>>(module, "Store")
      .def(py::init(&OpenStore), py::arg("path"), py::arg("hot_bytes").none(true),
           py::arg("scratch"), py::arg("read_only"), py::arg("network"),
           py::arg("epoch").none(true), Unlocked())
      .def(
          "commit",
          [](Store& store, int64_t step, std::string state) {
            return ValueOrThrow(store.Commit(step, std::move(state))).epoch;
          },
          py::arg("step"), py::arg("state"), Unlocked())
      .def("close", &Store::Close, Unlocked())
      .def("state",
           [](const Store& store) {
             std::string state;
             {
               py::gil_scoped_release unlocked;
               state = ValueOrThrow(store.State());
             }
             return py::bytes(state);
           })
      .def("epochs",
           [](const Store& store) {
             std::vector<std::tuple<uint64_t, int64_t, int64_t>> epochs;
             for (const Epoch& epoch : store.Epochs()) {
               epochs.emplace_back(epoch.epoch, epoch.step, epoch.seconds);
             }
             return epochs;
           })
      .def("tables", &Store::Tables, Unlocked())
      .def("joined", &Store::Joined, py::arg("name"), Unlocked())
      .def("leave", &Store::Leave, py::arg("name"), Unlocked())
      .def(
          "schema",
          [](const Store& store, const std::string& name) {
            return ValueOrThrow(Table::SlotsIn(store, name));
          },
          py::arg("name"), Unlocked())
      .def("sizes", &Sizes, Unlocked())
      .def("verify", &Verify, py::arg("progress"))
      .def("stats", &StatsDict);
}

}  // namespace recis::bind
