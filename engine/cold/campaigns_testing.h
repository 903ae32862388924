// Campaigns of kills, failing calls and power failures, at every place where one can happen, over
// a workload: LogWorkload is an example of what one must have.
#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>

#include "base/env_testing.h"
#include "base/testing.h"
#include "cold/log_testing.h"

namespace recis::testing {

struct Campaign {
  int64_t stride = 1;       // of the calls where something happens
  int power_failures = 0;   // states of the disk
  int64_t least_calls = 0;  // what a run must make for a campaign to mean anything
};

// Whether LMDB's calls are not seen, so that a campaign would mean nothing.
inline bool Skipped() {
#if defined(RECIS_SYSTEM_LMDB)
  std::printf("skipped: the calls of a system LMDB are not seen\n");
  return true;
#else
  return false;
#endif
}

// Memory instead of a disk, whose syncs would take most of the time; nothing here counts on them.
inline std::string FastParent() { return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : ""; }

// Checks what is there. Reads are plain ones: where they are asynchronous, closing a store waits
// for the kernel, tens of milliseconds each time.
template <class Workload>
uint64_t CheckAll(const std::string& path) {
  Env plain;
  ScopedEnv replaced(&plain);
  return Workload::Check(path);
}

// Kills a run at every call in turn; afterwards the last acknowledged commit is there, or the
// one that was under way, and nothing else.
template <class Workload>
void KillEverywhere(int fault, const Campaign& campaign) {
  if (Skipped()) return;
  void* const shared =
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* const acknowledged = static_cast<volatile uint64_t*>(shared);
  int64_t kills = 0;
  for (int64_t at = 1;; at += campaign.stride) {
    TemporaryDirectory directory(FastParent());
    *acknowledged = 0;
    const pid_t child = fork();
    if (child == 0) {
      FaultEnv env(at, fault);
      Env::Replace(&env);
      try {
        Workload::Run(directory / "store", [&](uint64_t epoch) { *acknowledged = epoch; });
      } catch (const Failure& failure) {
        std::fprintf(stderr, "in the child: %s\n", failure.text.c_str());
        _exit(1);
      }
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT(WIFEXITED(status), at);
    const uint64_t epoch = CheckAll<Workload>(directory / "store");
    EXPECT_LE(*acknowledged, epoch, at);
    EXPECT_LE(epoch, *acknowledged + 1, at);
    if (WEXITSTATUS(status) == 0) break;
    EXPECT_EQ(WEXITSTATUS(status), FaultEnv::kExitStatus, at);
    // And it goes on from there.
    if (at % 10 == 1) Workload::Run(directory / "store", [](uint64_t) {});
    ++kills;
  }
  munmap(shared, 4096);
  EXPECT_LT(campaign.least_calls / campaign.stride, kills);
}

// Has every call fail in turn, once; the run reaches its end all the same.
template <class Workload>
void FailEverywhere(int fault, const Campaign& campaign) {
  if (Skipped()) return;
  int64_t reported = 0;
  for (int64_t at = 1;; at += campaign.stride) {
    TemporaryDirectory directory(FastParent());
    FaultEnv env(at, fault);
    int failures = 0;
    try {
      ScopedEnv replaced(&env);
      Workload::Run(directory / "store", [](uint64_t) {}, &failures);
    } catch (const Failure& failure) {
      throw Failure{"call " + std::to_string(at) + " failed: " + failure.text};
    }
    EXPECT_EQ(CheckAll<Workload>(directory / "store"), Workload::kEpochs, at);
    if (!env.happened()) break;
    reported += failures > 0;
  }
  EXPECT_LT(campaign.least_calls / campaign.stride, reported);
}

// Power fails at random moments; of what was not synced, anything may be there if `strict`.
template <class Workload>
void FailPower(bool strict, const Campaign& campaign) {
  if (Skipped()) return;
  TemporaryDirectory directory(FastParent());
  RecordingEnv env(directory.path());
  {
    ScopedEnv replaced(&env);
    Workload::Run(directory / "store",
                  [&](uint64_t epoch) { env.Note(static_cast<int64_t>(epoch)); });
  }
  std::mt19937_64 random(strict ? 1 : 2);
  for (int i = 0; i < campaign.power_failures; ++i) {
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
      const uint64_t epoch = CheckAll<Workload>(crashed / "store");
      EXPECT_LE(acknowledged, epoch);
      EXPECT_LE(epoch, acknowledged + 1);
    } catch (const Failure& failure) {
      throw Failure{"state " + std::to_string(i) + " behind " + std::to_string(count) + " of " +
                    std::to_string(env.events().size()) + " events: " + failure.text};
    }
  }
}

}  // namespace recis::testing
