// Sums and means of rows of ids.
#include "bind/bind.h"
#include "table/bags.h"

namespace recis::bind {

void InitPooling(py::module_& module) {
  py::class_<Bags>(module, "Bags")
      .def(py::init(
               [](uintptr_t inverse, int64_t n, uintptr_t offsets, int64_t bags, int64_t distinct) {
                 return ValueOrThrow(Bags::Make(Address<const int64_t>(inverse), n,
                                                Address<const int64_t>(offsets), bags, distinct));
               }),
           py::arg("inverse"), py::arg("n"), py::arg("offsets"), py::arg("bags"),
           py::arg("distinct"), Unlocked())
      .def(
          "sum",
          [](const Bags& b, uintptr_t embeddings, int dtype, int64_t dim, uintptr_t weights,
             bool mean, uintptr_t out) {
            b.Sum(Address<const void>(embeddings), static_cast<DType>(dtype), dim,
                  Address<const void>(weights), mean, Address<void>(out));
          },
          py::arg("embeddings"), py::arg("dtype"), py::arg("dim"), py::arg("weights"),
          py::arg("mean"), py::arg("out"), Unlocked())
      .def(
          "spread",
          [](const Bags& b, uintptr_t grads, int dtype, int64_t dim, uintptr_t weights, bool mean,
             uintptr_t out) {
            b.Spread(Address<const void>(grads), static_cast<DType>(dtype), dim,
                     Address<const void>(weights), mean, Address<void>(out));
          },
          py::arg("grads"), py::arg("dtype"), py::arg("dim"), py::arg("weights"), py::arg("mean"),
          py::arg("out"), Unlocked());
}

}  // namespace recis::bind
