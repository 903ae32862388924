// Tables in a store whose disk fails: what is refused, what goes on, and that the last commit
// stays as it was.

#include <atomic>
#include <cerrno>
#include <numeric>

#include "base/env_testing.h"
#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

class FailingDisk : public Env {
 public:
  std::atomic<int64_t> reads_left{int64_t{1} << 40};
  std::atomic<int> write_error{0};

  ssize_t Preadv(int fd, const iovec* parts, int count, off_t offset) override {
    if (--reads_left < 0) return errno = EIO, -1;
    return Env::Preadv(fd, parts, count, offset);
  }
  ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset) override {
    if (write_error != 0) return errno = write_error.load(), -1;
    return Env::Pwritev(fd, parts, count, offset);
  }
};

Ids FirstIds(int64_t count) {
  Ids ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(AChangeThatAReadErrorCutsShortBreaksTheStoreUntilItIsReopened) {
  const TemporaryDirectory directory;
  const Ids ids = FirstIds(40);  // a budget holds ten
  {
    const auto store = Open(directory.path(), BytesOf(2));
    const auto table = Join(store);
    AddStates(*table);
    Lookup(*table, ids);
    EXPECT(store->Commit(1, "").ok());
    store->Close();
  }
  const Values values(ids.size() * kDim, 9);
  const auto insert = [&](Table& table) {
    return table
        .Insert(ids.data(), static_cast<int64_t>(ids.size()),
                reinterpret_cast<const std::byte*>(values.data()))
        .status();
  };
  int unchanged = 0, broken = 0;
  for (int64_t reads = 0;; ++reads) {
    FailingDisk disk;
    const ScopedEnv replaced(&disk);
    const auto store = Open(directory.path(), BytesOf(2));
    const auto table = Join(store);
    const Content before = ContentOf(*table);
    disk.reads_left = reads;
    const Status failed = insert(*table);
    disk.reads_left = int64_t{1} << 40;
    if (failed.ok()) {  // and nothing was committed
      store->Close();
      break;
    }
    EXPECT(failed.code() == Code::kIo, failed.message());
    if (ContentOf(*table) == before) {
      ++unchanged;
      Ok(insert(*table));
    } else {
      ++broken;
      for (const Status& refused : {insert(*table), store->Commit(2, "").status()}) {
        for (const std::string& part : {directory.path(), std::string("cut short"),
                                        std::string("The last commit is intact")}) {
          EXPECT(refused.message().find(part) != std::string::npos, part, refused.message());
        }
      }
    }
    store->Close();
    const auto again = Open(directory.path(), BytesOf(2));
    EXPECT(ContentOf(*Join(again)) == before, reads);
    again->Close();
  }
  EXPECT_LT(0, unchanged);
  EXPECT_LT(0, broken);
}

// Its new ids may have been admitted by then, which a second lookup would do too.
TEST(ALookupOfMoreThanFitsThatAReadErrorCutsShortCanBeMadeAgain) {
  const TemporaryDirectory directory;
  const auto memory = Table::Make(Options()).value();
  {
    const auto store = Open(directory.path(), BytesOf(2));
    const auto table = Join(store);
    for (Table* each : {memory.get(), table.get()}) {
      AddStates(*each);
      Lookup(*each, FirstIds(40));  // a budget holds ten
    }
    EXPECT(store->Commit(1, "").ok());
    store->Close();
  }
  const Ids ids = FirstIds(43);  // three of them new
  const Values expected = Lookup(*memory, ids).values;
  int failures = 0;
  for (int64_t reads = 0;; ++reads) {
    FailingDisk disk;
    const ScopedEnv replaced(&disk);
    const auto store = Open(directory.path(), BytesOf(2));
    const auto table = Join(store);
    disk.reads_left = reads;
    Values out(ids.size() * kDim);
    const Status failed = table
                              ->Lookup(ids.data(), static_cast<int64_t>(ids.size()), nullptr,
                                       reinterpret_cast<std::byte*>(out.data()), false)
                              .status();
    disk.reads_left = int64_t{1} << 40;
    if (failed.ok()) {
      store->Close();
      break;
    }
    ++failures;
    EXPECT(failed.code() == Code::kIo, failed.message());
    EXPECT(Lookup(*table, ids).values == expected, reads);
    EXPECT(ContentOf(*table) == ContentOf(*memory), reads);
    store->Close();
  }
  EXPECT_LT(20, failures);  // beyond those of the rows that fit
}

#if !defined(RECIS_SYSTEM_LMDB)

TEST(WithoutSpaceACommitFailsAndTrainingGoesOn) {
  for (const int error : {ENOSPC, EDQUOT}) {
    const TemporaryDirectory directory;
    FailingDisk disk;
    const ScopedEnv replaced(&disk);
    const auto store = Open(directory.path(), BytesOf(4));
    const auto table = Join(store);
    const auto states = AddStates(*table);
    Lookup(*table, FirstIds(30));
    EXPECT(store->Commit(1, "").ok());
    disk.write_error = error;
    Ok(Train(*table, FirstIds(20), states));
    const Status refused = store->Commit(2, "").status();
    EXPECT(refused.code() == Code::kIo, refused.message());
    EXPECT_EQ(refused.error_number(), error);
    EXPECT(refused.message().find("raise the quota") != std::string::npos, refused.message());
    EXPECT_EQ(store->Epochs().back().step, 1);
    Ok(Train(*table, FirstIds(40), states));
    const Content last = ContentOf(*table);
    disk.write_error = 0;
    EXPECT(store->Commit(3, "").ok());
    store->Close();
    const auto again = Open(directory.path(), BytesOf(4));
    EXPECT(ContentOf(*Join(again)) == last, error);
    again->Close();
  }
}

#endif

}  // namespace
}  // namespace recis::testing
