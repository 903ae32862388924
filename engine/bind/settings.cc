// What tables are made and trained with: draws, rules of optimizers, slots.
#include <pybind11/native_enum.h>

#include "bind/bind.h"
#include "device/kernels.h"
#include "device/normal.h"
#include "table/schema.h"

namespace recis::bind {

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
}

}  // namespace recis::bind
