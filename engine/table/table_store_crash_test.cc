// A whole store under kills, failing calls and power failures: its tables, once it is opened
// again, against twins in memory.
#include <cerrno>

#include "cold/campaigns_testing.h"
#include "table/crash_testing.h"

namespace recis::testing {
namespace {

#if defined(RECIS_RANDOM_YIELDS)
constexpr Campaign kCampaign{.stride = 37, .power_failures = 20, .least_calls = 90};
#else
constexpr Campaign kCampaign{.stride = 1, .power_failures = 200, .least_calls = 90};
#endif

TEST(AKillBeforeAnyCallLeavesTheLastCommit) {
  KillEverywhere<StoreWorkload>(FaultEnv::kKill, kCampaign);
}

TEST(AKillAmidAnyWriteLeavesTheLastCommit) {
  KillEverywhere<StoreWorkload>(FaultEnv::kKillHalfway, kCampaign);
}

TEST(AFullDiskAtAnyCallLosesNothing) { FailEverywhere<StoreWorkload>(ENOSPC, kCampaign); }

TEST(AnInputOutputErrorAtAnyCallLosesNothing) { FailEverywhere<StoreWorkload>(EIO, kCampaign); }

TEST(AShortWriteAtAnyCallLosesNothing) {
  FailEverywhere<StoreWorkload>(FaultEnv::kShort, kCampaign);
}

TEST(APowerFailureThatKeepsAnyUnsyncedPiecesLeavesTheLastCommit) {
  FailPower<StoreWorkload>(true, kCampaign);
}

TEST(APowerFailureThatKeepsTheOrderLeavesTheLastCommit) {
  FailPower<StoreWorkload>(false, kCampaign);
}

}  // namespace
}  // namespace recis::testing
