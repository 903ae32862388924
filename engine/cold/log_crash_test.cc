// The log under kills, failing calls and power failures, at every place where one can happen.
#include <cerrno>

#include "cold/campaigns_testing.h"
#include "cold/crash_testing.h"

namespace recis {
namespace {

using namespace testing;  // NOLINT: a test's vocabulary

#if defined(RECIS_RANDOM_YIELDS)
constexpr Campaign kCampaign{.stride = 11, .power_failures = 60, .least_calls = 50};
#else
constexpr Campaign kCampaign{.stride = 1, .power_failures = 600, .least_calls = 50};
#endif

TEST(AKillBeforeAnyCallLeavesTheLastCommit) {
  KillEverywhere<LogWorkload>(FaultEnv::kKill, kCampaign);
}

TEST(AKillAmidAnyWriteLeavesTheLastCommit) {
  KillEverywhere<LogWorkload>(FaultEnv::kKillHalfway, kCampaign);
}

TEST(AFullDiskAtAnyCallLosesNothing) { FailEverywhere<LogWorkload>(ENOSPC, kCampaign); }

TEST(AnInputOutputErrorAtAnyCallLosesNothing) { FailEverywhere<LogWorkload>(EIO, kCampaign); }

TEST(AShortWriteAtAnyCallLosesNothing) { FailEverywhere<LogWorkload>(FaultEnv::kShort, kCampaign); }

TEST(APowerFailureThatKeepsAnyUnsyncedPiecesLeavesTheLastCommit) {
  FailPower<LogWorkload>(true, kCampaign);
}

TEST(APowerFailureThatKeepsTheOrderLeavesTheLastCommit) {
  FailPower<LogWorkload>(false, kCampaign);
}

}  // namespace
}  // namespace recis
