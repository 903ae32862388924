// A store whose tables have records on a device under kills, failing calls and power failures: as
// without one, a commit has all of them or is not there.
#include <atomic>
#include <cerrno>
#include <memory>
#include <utility>

#include "cold/campaigns_testing.h"
#include "table/cached_table_testing.h"
#include "table/crash_testing.h"  // behind ContentOf() of those tables

namespace recis::testing {
namespace {

struct OnDevice {
  static Result<std::shared_ptr<CachedTable>> Make(TableOptions options,
                                                   const std::shared_ptr<Store>& store) {
    const int64_t block_bytes = options.block_rows * options.shape[0] * 3 * 4;  // with states
    return CachedTable::Make(std::move(options), store, EmulatedDevice(), block_bytes);
  }
};
using DeviceWorkload = StoreWorkload<OnDevice>;

// The store's own calls are tried one by one in table_store_crash_test.cc.
#if defined(RECIS_RANDOM_YIELDS)
constexpr Campaign kCampaign{.stride = 97, .power_failures = 10, .least_calls = 90};
#else
constexpr Campaign kCampaign{.stride = 7, .power_failures = 60, .least_calls = 90};
#endif

TEST(AKillBeforeAnyCallLeavesTheLastCommitOfADevicesTables) {
  KillEverywhere<DeviceWorkload>(FaultEnv::kKill, kCampaign);
}

TEST(AFullDiskAtAnyCallLosesNothingOfADevicesTables) {
  FailEverywhere<DeviceWorkload>(ENOSPC, kCampaign);
}

TEST(AnInputOutputErrorAtAnyCallLosesNothingOfADevicesTables) {
  FailEverywhere<DeviceWorkload>(EIO, kCampaign);
}

TEST(APowerFailureLeavesTheLastCommitOfADevicesTables) {
  FailPower<DeviceWorkload>(true, kCampaign);
}

class FullDisk : public Env {
 public:
  ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset) override {
    if (full) return errno = ENOSPC, -1;
    return Env::Pwritev(fd, parts, count, offset);
  }
  std::atomic<bool> full = false;
};

TEST(WhatCouldNotBeWrittenBackIsInTheNextCommit) {
  if (Skipped()) return;
  FullDisk disk;
  const ScopedEnv replaced(&disk);
  const TemporaryDirectory directory;
  const Ids ids = Range(0, 2 * kBlockRows);
  Values trained;
  {
    StoreOptions options;
    options.log = At(directory.path());
    // Refuses changes as soon as a block cannot be written.
    options.log.transaction_bytes = options.log.queue_bytes = 1;
    options.hot_bytes = BytesOf(2);
    const auto store = Value(Store::Open(options));
    const auto table = JoinCached(store, 2);
    const auto other = Join(store, "other");
    Train(*table, ids);
    disk.full = true;
    Status status;
    for (int64_t i = 0; i < 1000 && status.ok(); ++i) {
      status = Train(*other, Range(100 * i, 100 * i + 90), {});
    }
    EXPECT(status.code() == Code::kIo);
    trained = Read(*table, ids);
    EXPECT(table->WriteBackAndHold().status().code() == Code::kIo);
    EXPECT(store->Commit(1, "").status().code() == Code::kIo);
    disk.full = false;
    Ok(store->Commit(2, "").status());
    store->Close();
  }
  const auto again = Open(directory.path(), BytesOf(2));
  EXPECT(Read(*Join(again), ids) == trained);
  again->Close();
}

}  // namespace
}  // namespace recis::testing
