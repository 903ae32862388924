// Numbering of ids on a device: against the CPU's, on all host executors.
#include <cstdint>
#include <random>
#include <vector>

#include "base/testing.h"
#include "base/thread_pool.h"
#include "device/device_kernels_testing.h"

namespace recis {
namespace {

using testing::AllKernels, testing::NamedKernels, testing::Numbered, testing::NumberedOn;

// What it should be, the plain way.
Numbered Expected(const std::vector<int64_t>& ids) {
  Numbered expected;
  for (const int64_t id : ids) {
    uint32_t number = 0;
    while (number < expected.ids.size() && expected.ids[number] != id) ++number;
    if (number == expected.ids.size()) expected.ids.push_back(id);
    expected.inverse.push_back(number);
  }
  return expected;
}

void Check(const std::vector<int64_t>& ids) {
  SetThreadCount(4);
  const Numbered expected = Expected(ids);
  for (const NamedKernels& on : AllKernels()) {
    const Numbered found = NumberedOn(*on.kernels, ids);
    EXPECT_EQ(found.ids, expected.ids, on.name);
    EXPECT_EQ(found.inverse, expected.inverse, on.name);
  }
}

TEST(IdsAreNumberedByFirstOccurrence) {
  Check({});
  Check({7});
  Check({7, 7, 7});
  Check({-1, 0, INT64_MIN, -1, INT64_MAX, 0, 5});
}

TEST(TheOrderInWhichItemsAreDoneDoesNotShow) {
  std::mt19937_64 random(1);
  for (const int64_t range : {3, 40, 1000}) {
    for (int round = 0; round < 30; ++round) {
      std::vector<int64_t> ids(400);
      for (int64_t& id : ids) id = static_cast<int64_t>(random() % range) - range / 2;
      Check(ids);
    }
  }
}

}  // namespace
}  // namespace recis
