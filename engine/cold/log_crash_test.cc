// The log under kills, failing calls and power failures, at every place where one can happen.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <random>

#include "base/env_testing.h"
#include "base/testing.h"
#include "cold/crash_testing.h"

namespace recis {
namespace {

using namespace testing;  // NOLINT: a test's vocabulary

#if defined(RECIS_SYSTEM_LMDB)
constexpr bool kSkipped = true;
#else
constexpr bool kSkipped = false;
#endif
#if defined(RECIS_RANDOM_YIELDS)
constexpr int64_t kStride = 11;  // sanitizers are slow
constexpr int kPowerFailures = 60;
#else
constexpr int64_t kStride = 1;
constexpr int kPowerFailures = 600;
#endif

bool Skipped() {
  if (kSkipped) std::printf("skipped: the calls of a system LMDB are not seen\n");
  return kSkipped;
}

// Memory instead of a disk, whose syncs would take most of the time; nothing here counts on them.
std::string FastParent() { return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : ""; }

// Kills a run at every call in turn; afterwards the last acknowledged commit is there, or the
// one that was under way, and nothing else.
void KillEverywhere(int fault) {
  if (Skipped()) return;
  void* const shared =
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* const acknowledged = static_cast<volatile uint64_t*>(shared);
  int64_t kills = 0;
  for (int64_t at = 1;; at += kStride) {
    TemporaryDirectory directory(FastParent());
    *acknowledged = 0;
    const pid_t child = fork();
    if (child == 0) {
      FaultEnv env(at, fault);
      Env::Replace(&env);
      try {
        LogWorkload::Run(directory / "store", [&](uint64_t epoch) { *acknowledged = epoch; });
      } catch (const Failure& failure) {
        std::fprintf(stderr, "in the child: %s\n", failure.text.c_str());
        _exit(1);
      }
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT(WIFEXITED(status), at);
    const uint64_t epoch = LogWorkload::Check(directory / "store");
    EXPECT_LE(*acknowledged, epoch, at);
    EXPECT_LE(epoch, *acknowledged + 1, at);
    if (WEXITSTATUS(status) == 0) break;
    EXPECT_EQ(WEXITSTATUS(status), FaultEnv::kExitStatus, at);
    // And it goes on from there.
    if (at % 10 == 1) LogWorkload::Run(directory / "store", [](uint64_t) {});
    ++kills;
  }
  munmap(shared, 4096);
  EXPECT_LT(50 / kStride, kills);
}

TEST(AKillBeforeAnyCallLeavesTheLastCommit) { KillEverywhere(FaultEnv::kKill); }

TEST(AKillAmidAnyWriteLeavesTheLastCommit) { KillEverywhere(FaultEnv::kKillHalfway); }

// Has every call fail in turn, once; the run reaches its end all the same.
void FailEverywhere(int fault) {
  if (Skipped()) return;
  int64_t reported = 0;
  for (int64_t at = 1;; at += kStride) {
    TemporaryDirectory directory(FastParent());
    FaultEnv env(at, fault);
    int failures = 0;
    try {
      ScopedEnv replaced(&env);
      LogWorkload::Run(directory / "store", [](uint64_t) {}, &failures);
    } catch (const Failure& failure) {
      throw Failure{"call " + std::to_string(at) + " failed: " + failure.text};
    }
    EXPECT_EQ(LogWorkload::Check(directory / "store"), LogWorkload::kEpochs, at);
    if (!env.happened()) break;
    reported += failures > 0;
  }
  EXPECT_LT(50 / kStride, reported);
}

TEST(AFullDiskAtAnyCallLosesNothing) { FailEverywhere(ENOSPC); }

TEST(AnInputOutputErrorAtAnyCallLosesNothing) { FailEverywhere(EIO); }

TEST(AShortWriteAtAnyCallLosesNothing) { FailEverywhere(FaultEnv::kShort); }

void FailPower(bool strict, uint64_t seed) {
  if (Skipped()) return;
  TemporaryDirectory directory(FastParent());
  RecordingEnv env(directory.path());
  {
    ScopedEnv replaced(&env);
    LogWorkload::Run(directory / "store",
                     [&](uint64_t epoch) { env.Note(static_cast<int64_t>(epoch)); });
  }
  std::mt19937_64 random(seed);
  for (int i = 0; i < kPowerFailures; ++i) {
    const size_t count = random() % (env.events().size() + 1);
    uint64_t acknowledged = 0;
    for (size_t e = 0; e < count; ++e) {
      if (env.events()[e].kind == RecordingEnv::Event::kNote) {
        acknowledged = static_cast<uint64_t>(env.events()[e].offset);
      }
    }
    TemporaryDirectory crashed(FastParent());
    CrashState(env, count, strict, random).Write(crashed.path());
    try {
      const uint64_t epoch = LogWorkload::Check(crashed / "store");
      EXPECT_LE(acknowledged, epoch);
      EXPECT_LE(epoch, acknowledged + 1);
    } catch (const Failure& failure) {
      throw Failure{"state " + std::to_string(i) + " behind " + std::to_string(count) + " of " +
                    std::to_string(env.events().size()) + " events: " + failure.text};
    }
  }
}

TEST(APowerFailureThatKeepsAnyUnsyncedPiecesLeavesTheLastCommit) { FailPower(true, 1); }

TEST(APowerFailureThatKeepsTheOrderLeavesTheLastCommit) { FailPower(false, 2); }

}  // namespace
}  // namespace recis
