// Sums and means of rows of ids, on the CPU and on devices.
#include <optional>

#include "bind/bind.h"
#include "table/bags.h"
#include "table/device_bags.h"

namespace recis::bind {
namespace {

Bags MakeBags(uintptr_t inverse, int64_t n, uintptr_t offsets, int64_t bags, int64_t distinct) {
  return ValueOrThrow(Bags::Make(Address<const int64_t>(inverse), n,
                                 Address<const int64_t>(offsets), bags, distinct));
}

DeviceBags MakeDeviceBags(uintptr_t inverse, int64_t n, uintptr_t offsets, int64_t bags,
                          int64_t distinct, std::optional<int> gpu) {
  return ValueOrThrow(
      DeviceBags::Make(DeviceOf(gpu), MakeBags(inverse, n, offsets, bags, distinct)));
}

template <class Kind>
void BindSums(py::class_<Kind>& bound) {
  bound
      .def(
          "sum",
          [](const Kind& b, uintptr_t embeddings, int dtype, int64_t dim, uintptr_t weights,
             bool mean, uintptr_t out) {
            return Told([&] {
              return b.Sum(Address<const void>(embeddings), static_cast<DType>(dtype), dim,
                           Address<const void>(weights), mean, Address<void>(out));
            });
          },
          py::arg("embeddings"), py::arg("dtype"), py::arg("dim"), py::arg("weights"),
          py::arg("mean"), py::arg("out"), Unlocked())
      .def(
          "spread",
          [](const Kind& b, uintptr_t grads, int dtype, int64_t dim, uintptr_t weights, bool mean,
             uintptr_t out) {
            return Told([&] {
              return b.Spread(Address<const void>(grads), static_cast<DType>(dtype), dim,
                              Address<const void>(weights), mean, Address<void>(out));
            });
          },
          py::arg("grads"), py::arg("dtype"), py::arg("dim"), py::arg("weights"), py::arg("mean"),
          py::arg("out"), Unlocked());
}

}  // namespace

void InitPooling(py::module_& module) {
  py::class_<Bags> bags(module, "Bags");
  bags.def(py::init(&MakeBags), py::arg("inverse"), py::arg("n"), py::arg("offsets"),
           py::arg("bags"), py::arg("distinct"), Unlocked());
  BindSums(bags);
  py::class_<DeviceBags> device_bags(module, "DeviceBags");
  device_bags.def(py::init(&MakeDeviceBags), py::arg("inverse"), py::arg("n"), py::arg("offsets"),
                  py::arg("bags"), py::arg("distinct"), py::arg("gpu").none(true), Unlocked());
  BindSums(device_bags);
}

}  // namespace recis::bind
