// What the log says of disks, directories and files that are not as they should be.
#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <thread>

#include "base/env_testing.h"
#include "base/testing.h"
#include "cold/database.h"
#include "cold/log.h"
#include "cold/log_testing.h"

namespace recis {
namespace {

using namespace testing;  // NOLINT: a test's vocabulary

void Says(const Status& status, Code code, const std::vector<std::string>& parts) {
  EXPECT(status.code() == code, status.message());
  for (const std::string& part : parts) {
    EXPECT(status.message().find(part) != std::string::npos, part, status.message());
  }
}

// A store of one committed block of 20 rows; returns its sequence.
Sequence MakeStore(const std::string& path) {
  auto log = Value(Log::Open(At(path)));
  const auto block = BlockOf(log->NextSequence(), 100, 20, 1);
  log->Append(block);
  Changes changes;
  changes.liveness = {AllLive(*block)};
  changes.values = {{"v", "1"}};
  Value(log->Commit(changes, log->NextSequence()));
  return block->sequence();
}

// Changes the one place of the file where `bytes` stand.
void Damage(const std::string& file, const std::string& bytes) {
  std::ifstream in(file, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(in)), {});
  const size_t at = content.find(bytes);
  EXPECT_NE(at, std::string::npos);
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(at + bytes.size() / 2));
  out.put(static_cast<char>(content[at + bytes.size() / 2] ^ 1));
}

TEST(ADamagedRecordIsNamed) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  const auto record = RecordOf(103, 1);
  Damage(directory / "store/data.mdb",
         std::string(reinterpret_cast<const char*>(record.data()), record.size()));
  auto log = Value(Log::Open(At(directory / "store")));
  Ok(ReadOne(*log, block, 2, 102, 1));
  std::vector<std::byte> buffer(kRecordBytes);
  const ReadRequest request{block, 3, 103, 103, kRecordBytes, buffer.data()};
  const std::vector<std::string> parts = {directory / "store/data.mdb",     "table 7",
                                          "block " + std::to_string(block), "position 3",
                                          "expected the checksum",          "recis-ckpt verify"};
  Says(log->Read(&request, 1), Code::kCorrupt, parts);
  BlockLiveness whole = AllLive(*BlockOf(block, 100, 20, 1));
  std::vector<std::byte> value;
  Says(log->ReadBlock(whole, &value), Code::kCorrupt, parts);
  whole.rows = 19;
  Says(log->ReadBlock(whole, &value), Code::kCorrupt, {"header", "expected 19", "found 20"});
}

TEST(ARequestForAnotherEntryIsNamed) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  auto log = Value(Log::Open(At(directory / "store")));
  std::vector<std::byte> record(1 << 20);
  ReadRequest request{block, 3, 104, 104, kRecordBytes, record.data()};
  Says(log->Read(&request, 1), Code::kCorrupt, {"expected id 104 row 104", "found id 103 row 103"});
  request.position = 4000;
  Says(log->Read(&request, 1), Code::kCorrupt, {"position 4000", "found a block of"});
  request.position = 0;
  request.record_bytes = 1 << 20;
  Says(log->Read(&request, 1), Code::kCorrupt, {"position 0", "found a block of"});
  request.sequence = 999;
  Says(log->Read(&request, 1), Code::kCorrupt, {"block 999", "no such block"});
}

TEST(DamagedValuesOfTheStoreAreNoticed) {
  for (const char* place : {"ids", "live", "value", "epochs"}) {
    TemporaryDirectory directory;
    const Sequence block = MakeStore(directory / "store");
    {
      auto database = Value(
          Database::Open({directory / "store", /*scratch=*/false, /*read_only=*/false, 1 << 30}));
      Ok(database->Write([&](Transaction& transaction) -> Status {
        const Db db = place == std::string("ids")    ? kIds
                      : place == std::string("live") ? kLive
                                                     : kMeta;
        const std::string key = db != kMeta                      ? std::string(KeyOf(block))
                                : place == std::string("epochs") ? "epochs"
                                                                 : "value/v";
        std::string value(**&transaction.Get(db, key).value());
        value.back() ^= 1;
        return transaction.Put(db, key, value);
      }));
    }
    auto log = Log::Open(At(directory / "store"));
    if (place != std::string("ids")) {
      Says(log.status(), Code::kCorrupt, {"data.mdb", "checksum", "restore from a snapshot"});
    } else {
      Says(Value(std::move(log))->ReadIds({block}, [](auto...) {}), Code::kCorrupt,
           {"the ids of block " + std::to_string(block)});
    }
  }
}

TEST(ABlockThatIsMissingIsNoticedAtOpening) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  {
    auto database = Value(Database::Open({directory / "store", false, false, 1 << 30}));
    Ok(database->Write([&](Transaction& t) { return t.Delete(kBlocks, KeyOf(block)); }));
  }
  Says(Log::Open(At(directory / "store")).status(), Code::kCorrupt,
       {"block " + std::to_string(block), "is not there"});
}

TEST(AStoreNewerThanTheCodeIsRefused) {
  TemporaryDirectory directory;
  MakeStore(directory / "store");
  {
    auto database = Value(Database::Open({directory / "store", false, false, 1 << 30}));
    const uint32_t format = 2;
    Ok(database->Write([&](Transaction& transaction) {
      return transaction.Put(kMeta, "format", {reinterpret_cast<const char*>(&format), 4});
    }));
  }
  Says(Log::Open(At(directory / "store")).status(), Code::kUnavailable, {"format 2", "format 1"});
}

TEST(ADirectoryThatIsNoStoreIsRefused) {
  TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "photos");
  std::ofstream(directory / "photos/cat.jpg") << "cat";
  Says(Log::Open(At(directory / "photos")).status(), Code::kInvalidArgument,
       {"not a store and not empty", "cat.jpg"});
  EXPECT(!std::filesystem::exists(directory / "photos/LOCK"));
  std::filesystem::create_directory(directory / "other");
  std::ofstream(directory / "other/data.mdb") << std::string(9000, 'x');
  Says(Log::Open(At(directory / "other")).status(), Code::kCorrupt, {"other/data.mdb"});
  Says(Log::Open(At(directory / "no/such")).status(), Code::kIo, {"Make it first"});
  LogOptions options = At(directory / "none");
  options.read_only = true;
  Says(Log::Open(options).status(), Code::kIo, {});
  EXPECT(!std::filesystem::exists(directory / "none"));
}

TEST(ScratchAndDurableStoresAreNotTakenForOneAnother) {
  TemporaryDirectory directory;
  MakeStore(directory / "durable");
  LogOptions options = At(directory / "durable");
  options.scratch = true;
  Says(Log::Open(options).status(), Code::kInvalidArgument, {"holds a durable store"});
  options.path = directory / "scratch";
  {
    auto log = Value(Log::Open(options));
    log->Append(BlockOf(log->NextSequence(), 0, 10, 1));
    Ok(log->Drain());
    Says(log->Commit({}, 1).status(), Code::kInvalidArgument, {"cannot be committed"});
  }
  Says(Log::Open(At(directory / "scratch")).status(), Code::kInvalidArgument, {"scratch store"});
  EXPECT_EQ(Value(Log::Open(options))->NextSequence(), 1u);
}

// A file system of another kind.
class KindEnv : public Env {
 public:
  explicit KindEnv(long kind) : kind_(kind) {}
  int Statfs(const char* path, struct statfs* use) override {
    const int result = Env::Statfs(path, use);
    use->f_type = kind_;
    return result;
  }

 private:
  const long kind_;
};

TEST(ANetworkFileSystemIsRefusedUnlessAskedFor) {
  TemporaryDirectory directory;
  KindEnv env(0x6969);
  ScopedEnv replaced(&env);
  LogOptions options = At(directory / "store");
  Says(Log::Open(options).status(), Code::kUnavailable, {options.path, "NFS", "network=True"});
  options.network = true;
  Ok(Log::Open(options).status());
}

// A file system that is mounted read-only.
class ReadOnlyEnv : public Env {
 public:
  int Open(const char* path, int flags, mode_t mode) override {
    if ((flags & (O_ACCMODE | O_CREAT)) != O_RDONLY) return errno = EROFS, -1;
    return Env::Open(path, flags, mode);
  }
  int Mkdir(const char*, mode_t) override { return errno = EROFS, -1; }
};

TEST(OnAReadOnlyFileSystemReadingIsAdvised) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  ReadOnlyEnv env;
  ScopedEnv replaced(&env);
  LogOptions options = At(directory / "store");
  Says(Log::Open(options).status(), Code::kIo,
       {options.path, "Read-only file system", "read_only=True"});
  options.read_only = true;
  Ok(ReadOne(*Value(Log::Open(options)), block, 3, 103, 1));
}

#if !defined(RECIS_SYSTEM_LMDB)

// A disk without room, whose writes and reads may be refused.
class FullEnv : public Env {
 public:
  std::atomic<bool> full{false};
  std::atomic<int64_t> writes{0};
  std::atomic<int64_t> room{int64_t{1} << 40};  // bytes
  std::atomic<int> read_error{0}, write_error{0}, sync_error{0};

  ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset) override {
    ++writes;
    for (int i = 0; i < count; ++i) room -= static_cast<int64_t>(parts[i].iov_len);
    if (room < 0) return errno = ENOSPC, -1;
    if (write_error != 0) return errno = write_error.load(), -1;
    return Env::Pwritev(fd, parts, count, offset);
  }
  ssize_t Preadv(int fd, const iovec* parts, int count, off_t offset) override {
    if (read_error != 0) return errno = read_error.load(), -1;
    return Env::Preadv(fd, parts, count, offset);
  }
  int Fdatasync(int fd) override {
    if (sync_error != 0) return errno = sync_error.load(), -1;
    return Env::Fdatasync(fd);
  }
  int Statfs(const char* path, struct statfs* use) override {
    const int result = Env::Statfs(path, use);
    if (full) use->f_bavail = 1;
    return result;
  }
};

TEST(AFullDiskIsNamedAndTheLogGoesOnWhenThereIsRoom) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  FullEnv env;
  ScopedEnv replaced(&env);
  LogOptions options = At(directory / "store");
  options.queue_bytes = 1 << 20;
  options.transaction_bytes = 1 << 18;
  auto log = Value(Log::Open(options));
  for (const int error : {ENOSPC, EDQUOT, EIO}) {
    env.write_error = error;
    env.full = true;  // LMDB says EIO on a full tmpfs
    Status status;
    std::shared_ptr<Block> last;
    int appended = 0;
    for (; appended < 1000 && status.ok(); ++appended) {
      last = BlockOf(log->NextSequence(), appended * 200, 200, 1);
      log->Append(last);
      status = log->Ready();
    }
    Says(status, Code::kIo, {"data.mdb", "bytes are free", "Free some space"});
    EXPECT_EQ(status.error_number(), error == EDQUOT ? EDQUOT : ENOSPC);
    Says(log->Drain(), Code::kIo, {"bytes are free"});
    Says(log->Commit({}, 1).status(), Code::kIo, {"bytes are free"});
    // Nobody asks for it meanwhile, so nobody tries again.
    const int64_t writes = env.writes;
    for (int i = 0; i < 1000; ++i) Ok(ReadOne(*log, block, 3, 103, 1));
    EXPECT_EQ(env.writes.load(), writes);
    env.write_error = 0;
    env.full = false;
    Ok(log->Ready());
    Ok(log->Drain());
    Ok(ReadOne(*log, last->sequence(), 9, (appended - 1) * 200 + 9, 1));
  }
  Value(log->Commit({}, log->NextSequence()));
}

TEST(WhatAFailedCommitHasWrittenIsNotPartOfTheNext) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  FullEnv env;
  ScopedEnv replaced(&env);
  auto log = Value(Log::Open(At(directory / "store")));
  Changes changes;  // too large for one transaction
  changes.state = std::string(72 << 20, 's');
  changes.values = {{"v", "2"}, {"w", "2"}};
  changes.liveness = {{block, 7, 20, kRecordBytes, std::string(3, 0)}};
  env.room = 68 << 20;
  Says(log->Commit(changes, block + 1).status(), Code::kIo, {"bytes are free"});
  env.room = int64_t{1} << 40;
  EXPECT_LT(0, log->Stats().transactions);
  for (int round = 0; round < 2; ++round) {
    std::map<std::string, std::string> values;
    Ok(log->ForEachValue(
        "", [&](std::string_view k, std::string_view v) { values[std::string(k)] = v; }));
    EXPECT_EQ(values.size(), 1u, round);
    EXPECT_EQ(values["v"], "1", round);
    EXPECT_EQ(Value(log->State()), "", round);
    int blocks = 0;
    Ok(log->ForEachBlock([&](const BlockLiveness&) { ++blocks; }));
    EXPECT_EQ(blocks, 1, round);
    if (round == 0) Value(log->Commit({}, block + 1));
  }
}

TEST(AFailedSyncEndsAllWritingUntilTheLogIsReopened) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  {
    FullEnv env;
    ScopedEnv replaced(&env);
    auto log = Value(Log::Open(At(directory / "store")));
    env.sync_error = EIO;
    log->Append(BlockOf(log->NextSequence(), 0, 10, 1));
    Says(log->Drain(), Code::kUnavailable, {"data.mdb", "A sync failed", "open it again"});
    env.sync_error = 0;
    Says(log->Drain(), Code::kUnavailable, {"A sync failed"});
    Says(log->Ready(), Code::kUnavailable, {"A sync failed"});
    Says(log->Commit({}, 1).status(), Code::kUnavailable, {"A sync failed"});
    Ok(ReadOne(*log, block, 3, 103, 1));
  }
  auto log = Value(Log::Open(At(directory / "store")));
  Ok(ReadOne(*log, block, 3, 103, 1));
  Value(log->Commit({}, log->NextSequence()));
}

TEST(ReadsGoOnWhileATransactionFails) {
  for (int64_t at = 1, failed = 1; failed > 0; ++at) {
    TemporaryDirectory directory;
    auto database = Value(Database::Open({directory.path(), false, false, kTestMapBytes}));
    FaultEnv env(at, EIO);
    ScopedEnv replaced(&env);
    std::atomic<bool> written = false;
    Status status, read;
    // This view keeps the writer from going on, once it has failed, until others have read.
    auto view = std::make_unique<View>(Value(database->Read()));
    std::thread writer([&] {
      status =
          database->Write([](Transaction& change) { return change.Put(kMeta, "value/k", "v"); });
      written = true;
    });
    std::thread reader([&] {
      while (!written && read.ok()) read = database->Read().status();
    });
    while (!env.happened() && !written) std::this_thread::yield();
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    view.reset();
    writer.join();
    reader.join();
    EXPECT_EQ(read.message(), "", at);
    Ok(database->Read().status());
    failed = !status.ok();
  }
}

TEST(AReadErrorOfTheDiskIsNamed) {
  TemporaryDirectory directory;
  const Sequence block = MakeStore(directory / "store");
  FullEnv env;
  ScopedEnv replaced(&env);
  auto log = Value(Log::Open(At(directory / "store")));
  env.read_error = EIO;
  env.full = true;
  const Status status = ReadOne(*log, block, 3, 103, 1);
  Says(status, Code::kIo, {"data.mdb", "table 7", "block ", "position 3", "Input/output error"});
  EXPECT_EQ(status.error_number(), EIO);
}

#endif

#if !defined(RECIS_RANDOM_YIELDS)  // sanitizers need more addresses than that

TEST(ALimitOfAddressSpaceIsRespected) {
  TemporaryDirectory directory;
  rlimit before;
  getrlimit(RLIMIT_AS, &before);
  rlimit limit = before;
  limit.rlim_cur = size_t{4} << 30;
  setrlimit(RLIMIT_AS, &limit);
  auto log = Log::Open(At(directory / "store"));
  setrlimit(RLIMIT_AS, &before);
  Ok(log.status());
}

#endif

}  // namespace
}  // namespace recis
