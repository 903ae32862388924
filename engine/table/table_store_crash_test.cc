// A whole store under kills, failing calls and power failures: its tables, once it is opened
// again, against twins in memory.
#include <cerrno>
#include <memory>
#include <utility>

#include "cold/campaigns_testing.h"
#include "table/crash_testing.h"

namespace recis::testing {
namespace {

struct OnHost {
  static Result<std::shared_ptr<Table>> Make(TableOptions options,
                                             const std::shared_ptr<Store>& store) {
    return Table::Make(std::move(options), store);
  }
};
using HostWorkload = StoreWorkload<OnHost>;

#if defined(RECIS_RANDOM_YIELDS)
constexpr Campaign kCampaign{.stride = 37, .power_failures = 20, .least_calls = 90};
#else
constexpr Campaign kCampaign{.stride = 1, .power_failures = 200, .least_calls = 90};
#endif

TEST(AKillBeforeAnyCallLeavesTheLastCommit) {
  KillEverywhere<HostWorkload>(FaultEnv::kKill, kCampaign);
}

TEST(AKillAmidAnyWriteLeavesTheLastCommit) {
  KillEverywhere<HostWorkload>(FaultEnv::kKillHalfway, kCampaign);
}

TEST(AFullDiskAtAnyCallLosesNothing) { FailEverywhere<HostWorkload>(ENOSPC, kCampaign); }

TEST(AnInputOutputErrorAtAnyCallLosesNothing) { FailEverywhere<HostWorkload>(EIO, kCampaign); }

TEST(AShortWriteAtAnyCallLosesNothing) {
  FailEverywhere<HostWorkload>(FaultEnv::kShort, kCampaign);
}

TEST(APowerFailureThatKeepsAnyUnsyncedPiecesLeavesTheLastCommit) {
  FailPower<HostWorkload>(true, kCampaign);
}

TEST(APowerFailureThatKeepsTheOrderLeavesTheLastCommit) {
  FailPower<HostWorkload>(false, kCampaign);
}

}  // namespace
}  // namespace recis::testing
