// Admission policies that run inside the engine.
#include "bind/bind.h"
#include "table/admission.h"

namespace recis::bind {

void InitPolicies(py::module_& module) {
  py::class_<AdmissionPolicy>(module, "AdmissionPolicy");
  py::class_<AdmitNone, AdmissionPolicy>(module, "AdmitNone").def(py::init<>());
  py::class_<FrequencyAdmission, AdmissionPolicy>(module, "FrequencyAdmission")
      .def(py::init<int64_t, int64_t>(), py::arg("min_frequency"), py::arg("max_candidates"))
      .def("sightings", &FrequencyAdmission::Sightings, py::arg("id"))
      .def("clear", &FrequencyAdmission::Clear)
      .def("__len__", &FrequencyAdmission::size)
      .def(
          "dump",
          [](const FrequencyAdmission& policy, int64_t capacity, uintptr_t ids, uintptr_t counts) {
            return policy.Dump(capacity, Address<int64_t>(ids), Address<int64_t>(counts));
          },
          py::arg("capacity"), py::arg("ids"), py::arg("counts"), Unlocked())
      .def(
          "restore",
          [](FrequencyAdmission& policy, uintptr_t ids, uintptr_t counts, int64_t n) {
            policy.Restore(Address<const int64_t>(ids), Address<const int64_t>(counts), n);
          },
          py::arg("ids"), py::arg("counts"), py::arg("n"), Unlocked());
}

}  // namespace recis::bind
