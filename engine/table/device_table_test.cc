// A table on the emulated device against the table in memory: the same bits after every call.
#include "base/thread_pool.h"
#include "device/late_device_testing.h"
#include "table/device_table_testing.h"

namespace recis::testing {
namespace {

// Every rule and every type of an element.
void TryAll(const std::shared_ptr<Device>& device) {
  SetThreadCount(4);
  const std::vector<RuleParams> rules = {
      {.rule = Rule::kSgd, .step_size = 0.1, .weight_decay = 0.01},
      {.rule = Rule::kSgd, .step_size = 0.1, .momentum = 0.9, .divisor = 3, .nesterov = true},
      {.rule = Rule::kAdagrad, .step_size = 0.1, .eps = 1e-8},
      {.rule = Rule::kRowWiseAdagrad, .step_size = 0.1, .weight_decay = 0.1, .eps = 1e-8},
      {.rule = Rule::kAdam,
       .step_size = 0.1,
       .decay = 0.99,
       .beta1 = 0.9,
       .beta2 = 0.99,
       .eps = 1e-8,
       .amsgrad = true},
  };
  constexpr int64_t kDims[] = {1, 7, 40};
  uint64_t seed = 0;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    for (const RuleParams& params : rules) {
      ++seed;
      DevicePair({.dtype = dtype, .dim = kDims[seed % 3], .params = params}, device, seed).Run(30);
    }
  }
  // Ids that stand in a hundred positions each.
  for (const int64_t range : {1, 3, 7}) {
    DevicePair({.dim = range == 3 ? 19 : 70, .params = rules[0], .ids = 700, .range = range},
               device, ++seed)
        .Run(10);
  }
  for (const DType dtype : {DType::kInt8, DType::kInt32, DType::kInt64}) {
    DevicePair({.dtype = dtype, .distribution = Distribution::kConstant}, device, ++seed).Run(40);
  }
  for (const Distribution distribution :
       {Distribution::kUniform, Distribution::kTruncatedNormal, Distribution::kConstant}) {
    DevicePair({.dim = 3, .distribution = distribution, .ids = 4000, .range = 30000}, device, 7)
        .Run(20);
  }
}

TEST(EveryCallHasTheResultsOfTheTableInMemory) { TryAll(EmulatedDevice()); }

TEST(OneThreadALaneHasTheResultsOfTheTableInMemory) {
  const RuleParams row_wise{.rule = Rule::kRowWiseAdagrad, .step_size = 0.1, .eps = 1e-8};
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16}) {
    DevicePair({.dtype = dtype, .dim = 19, .params = row_wise, .ids = 12, .range = 12},
               EmulatedDevice(LanesKernels()), 3)
        .Run(12);
  }
}

TEST(ALateDeviceHasTheResultsOfTheTableInMemory) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const Rule rule = seed % 2 == 0 ? Rule::kAdam : Rule::kRowWiseAdagrad;
    DevicePair({.dim = 3, .params = {.rule = rule, .step_size = 0.1, .eps = 1e-8}, .streams = 3},
               LateDevice(seed), seed)
        .Run(40);
  }
}

// Where there is one.
TEST(AGpuHasTheResultsOfTheTableInMemory) {
  if (auto device = CudaDevice(0); device.ok()) TryAll(device.value());
}

}  // namespace
}  // namespace recis::testing
