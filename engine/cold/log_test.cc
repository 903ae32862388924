#include "cold/log.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <thread>

#include "base/testing.h"
#include "cold/log_testing.h"

namespace recis {
namespace {

using namespace testing;  // NOLINT: a test's vocabulary

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Runs `body` in a forked child; true if it returned true there.
template <class Body>
bool InChild(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    bool held = false;
    try {
      held = body();
    } catch (const Failure& failure) {
      std::fprintf(stderr, "in the child: %s\n", failure.text.c_str());
    }
    _exit(held ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Appends a block whose entries are all live in the next commit.
std::shared_ptr<Block> Add(Log& log, Changes* changes, int64_t first, uint32_t rows,
                           uint64_t salt) {
  auto block = BlockOf(log.NextSequence(), first, rows, salt);
  log.Append(block);
  changes->liveness.push_back(AllLive(*block));
  return block;
}

std::vector<Sequence> Blocks(const Log& log) {
  std::vector<Sequence> sequences;
  Ok(log.ForEachBlock([&](const BlockLiveness& b) { sequences.push_back(b.sequence); }));
  return sequences;
}

std::map<std::string, std::string> Values(const Log& log, const std::string& prefix = "") {
  std::map<std::string, std::string> values;
  Ok(log.ForEachValue(prefix, [&](std::string_view key, std::string_view value) {
    values[std::string(key)] = value;
  }));
  return values;
}

TEST(AppendedBlocksCanBeReadOnceTheyAreDurable) {
  TemporaryDirectory directory;
  auto log = Value(Log::Open(At(directory / "store")));
  const Sequence first = log->NextSequence();
  log->Append(BlockOf(first, 100, 20, 1));
  log->Append(BlockOf(log->NextSequence(), 200, 3, 1));
  Ok(log->Drain());
  EXPECT_LT(first + 1, log->durable());
  for (uint32_t i = 0; i < 20; ++i) Ok(ReadOne(*log, first, i, 100 + i, 1));
  for (uint32_t i = 0; i < 3; ++i) Ok(ReadOne(*log, first + 1, i, 200 + i, 1));
  EXPECT_EQ(log->Stats().queued_bytes, 0);
}

TEST(ManyEntriesAreReadInAnyOrder) {
  TemporaryDirectory directory;
  auto log = Value(Log::Open(At(directory / "store")));
  const Sequence first = log->NextSequence();
  log->Append(BlockOf(first, 0, 100, 1));
  for (int64_t b = 1; b < 50; ++b) log->Append(BlockOf(log->NextSequence(), b * 100, 100, 1));
  Ok(log->Drain());
  std::vector<std::byte> records(5000 * kRecordBytes);
  std::vector<ReadRequest> requests;
  for (int64_t i = 0; i < 5000; ++i) {
    const int64_t id = i * 1237 % 5000;
    requests.push_back({first + static_cast<Sequence>(id / 100), static_cast<uint32_t>(id % 100),
                        id, static_cast<Row>(id), kRecordBytes,
                        records.data() + i * static_cast<int64_t>(kRecordBytes)});
  }
  Ok(log->Read(requests.data(), 5000));
  for (const ReadRequest& r : requests) {
    EXPECT_EQ(std::memcmp(r.record, RecordOf(r.id, 1).data(), kRecordBytes), 0, r.id);
  }
  EXPECT_EQ(log->Stats().reads, 5000);
}

// What the system's cache does not have is read past it: neighbours together, and nothing twice.
TEST(NeighboursThatAreNotCachedAreReadTogether) {
  TemporaryDirectory directory;
  auto log = Value(Log::Open(At(directory / "store")));
  constexpr uint32_t kRows = 20;
  constexpr size_t kBytes = 768;  // so a block takes four pages, and a record lies in one or two
  std::vector<Sequence> blocks;
  for (int64_t b = 0; b < 8; ++b) {
    blocks.push_back(log->NextSequence());
    log->Append(BlockOf(blocks.back(), b * kRows, kRows, 1, 7, kBytes));
  }
  Ok(log->Drain());
  const int file = open((directory / "store/data.mdb").c_str(), O_RDONLY);
  EXPECT_EQ(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
  close(file);
  const auto read = [&](const std::vector<uint32_t>& positions) {
    std::vector<std::vector<std::byte>> records;
    std::vector<ReadRequest> requests;
    records.reserve(blocks.size() * positions.size());
    for (size_t b = 0; b < blocks.size(); ++b) {
      for (const uint32_t position : positions) {
        const int64_t id = static_cast<int64_t>(b * kRows + position);
        std::byte* record = records.emplace_back(kBytes).data();
        requests.push_back({blocks[b], position, id, static_cast<Row>(id), kBytes, record});
      }
    }
    const int64_t before = log->Stats().direct_reads;
    Ok(log->Read(requests.data(), static_cast<int64_t>(requests.size())));
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT(records[i] == RecordOf(requests[i].id, 1, kBytes));
    }
    return log->Stats().direct_reads - before;
  };
  const int64_t alone = read({0});
  if (alone == 0) return;  // no such reads, or no way past the cache here
  EXPECT_EQ(alone, 8);
  EXPECT_EQ(read({0, 12}), 16);   // of the first page and the third
  EXPECT_EQ(read({1, 2, 8}), 8);  // of one page and the next
  EXPECT_EQ(read({3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}), 8);
}

TEST(ACommittedEpochIsFoundAgain) {
  TemporaryDirectory directory;
  Changes changes;
  changes.step = 12;
  changes.state = std::string(9 << 20, 's');
  changes.values = {{"table/0", "schema"}, {"table/1", "another"}, {"other", "x"}};
  std::shared_ptr<Block> block;
  {
    auto log = Value(Log::Open(At(directory / "store")));
    EXPECT(!log->Current());
    block = Add(*log, &changes, 100, 20, 1);
    changes.liveness[0].live[0] = 0x7e;
    const Epoch epoch = Value(log->Commit(changes, log->NextSequence()));
    EXPECT_EQ(epoch.epoch, 1u);
    EXPECT_EQ(epoch.step, 12);
  }
  auto log = Value(Log::Open(At(directory / "store")));
  EXPECT_EQ(log->Current()->epoch, 1u);
  EXPECT_EQ(log->Current()->step, 12);
  EXPECT(Value(log->State()) == changes.state);
  EXPECT_EQ(Values(*log, "table/").size(), 2u);
  EXPECT_EQ(Values(*log)["other"], "x");
  Ok(log->ForEachBlock([&](const BlockLiveness& b) {
    EXPECT_EQ(b.sequence, block->sequence());
    EXPECT_EQ(b.table, 7u);
    EXPECT_EQ(b.rows, 20u);
    EXPECT_EQ(b.record_bytes, kRecordBytes);
    EXPECT_EQ(b.live, changes.liveness[0].live);
    std::vector<std::byte> value;
    Ok(log->ReadBlock(b, &value));
    EXPECT_EQ(value.size(), block->value_bytes());
    EXPECT_EQ(std::memcmp(value.data(), block->value(), value.size()), 0);
  }));
  int lists = 0;
  Ok(log->ReadIds({block->sequence()},
                  [&](Sequence, const int64_t* ids, const Row* rows, uint32_t n) {
                    ++lists;
                    EXPECT_EQ(n, 20u);
                    for (uint32_t i = 0; i < n; ++i)
                      EXPECT_EQ(ids[i] * 1000 + rows[i], (100 + i) * 1001);
                  }));
  EXPECT_EQ(lists, 1);
  Ok(ReadOne(*log, block->sequence(), 3, 103, 1));
  EXPECT_LT(block->sequence(), log->NextSequence());
}

TEST(WhatWasNotCommittedIsDropped) {
  TemporaryDirectory directory;
  Sequence kept, dropped;
  {
    auto log = Value(Log::Open(At(directory / "store")));
    Changes changes;
    kept = Add(*log, &changes, 0, 10, 1)->sequence();
    Value(log->Commit(changes, log->NextSequence()));
    dropped = Add(*log, &changes, 10, 10, 1)->sequence();
    Ok(log->Drain());
  }
  auto log = Value(Log::Open(At(directory / "store")));
  EXPECT_EQ(Blocks(*log), std::vector<Sequence>{kept});
  Ok(ReadOne(*log, kept, 0, 0, 1));
  EXPECT(ReadOne(*log, dropped, 0, 10, 1).code() == Code::kCorrupt);
  EXPECT_LT(dropped, log->NextSequence());
}

TEST(ASequenceIsNotUsedTwiceEvenAfterTwoOpenings) {
  TemporaryDirectory directory;
  Sequence dropped;
  {
    auto log = Value(Log::Open(At(directory / "store")));
    Changes changes;
    dropped = Add(*log, &changes, 10, 10, 1)->sequence();
    Ok(log->Drain());
  }
  Value(Log::Open(At(directory / "store")));
  EXPECT_LT(dropped, Value(Log::Open(At(directory / "store")))->NextSequence());
}

// Epoch e has value "e" under "v", and block e live; block 1 dies in epoch 3.
void CommitThree(const std::string& path, std::vector<Sequence>* blocks) {
  auto log = Value(Log::Open(At(path)));
  for (int e = 1; e <= 3; ++e) {
    Changes changes;
    changes.step = e * 10;
    changes.state = "state " + std::to_string(e);
    changes.values = {{"v", std::to_string(e)}};
    if (e == 2) changes.values.push_back({"only", "2"});
    if (e == 3) changes.values.push_back({"only", ""});
    blocks->push_back(Add(*log, &changes, e * 100, 10, 1)->sequence());
    if (e == 3) changes.liveness.push_back({(*blocks)[0], 7, 10, kRecordBytes, std::string(2, 0)});
    Value(log->Commit(changes, log->NextSequence()));
  }
}

TEST(TheLastTwoEpochsCanBeOpened) {
  TemporaryDirectory directory;
  std::vector<Sequence> blocks;
  CommitThree(directory / "store", &blocks);
  LogOptions options = At(directory / "store");
  options.epoch = 1;
  EXPECT(Log::Open(options).status().code() == Code::kNotFound);
  {
    auto log = Value(Log::Open(At(directory / "store")));
    EXPECT_EQ(log->Epochs().size(), 2u);
    EXPECT_EQ(log->Epochs()[0].step, 20);
    EXPECT_EQ(Value(log->State()), "state 3");
    EXPECT_EQ(Values(*log)["v"], "3");
    EXPECT_EQ(Values(*log).size(), 1u);
    EXPECT_EQ(Blocks(*log), (std::vector<Sequence>{blocks[1], blocks[2]}));
  }
  options.epoch = 2;
  for (int round = 0; round < 2; ++round) {  // once it was opened, it is the last
    auto log = Value(Log::Open(round == 0 ? options : At(directory / "store")));
    EXPECT_EQ(log->Current()->epoch, 2u);
    EXPECT_EQ(log->Epochs().size(), 1u);
    EXPECT_EQ(Value(log->State()), "state 2");
    EXPECT_EQ(Values(*log)["v"], "2");
    EXPECT_EQ(Values(*log)["only"], "2");
    EXPECT_EQ(Blocks(*log), (std::vector<Sequence>{blocks[0], blocks[1]}));
    Ok(ReadOne(*log, blocks[0], 1, 101, 1));
    EXPECT(!ReadOne(*log, blocks[2], 1, 301, 1).ok());
  }
}

TEST(WhatWasBeforeTheFirstCommitCanBeOpenedUntilTheSecond) {
  TemporaryDirectory directory;
  LogOptions start = At(directory / "store");
  start.epoch = 0;
  for (int e = 0; e < 3; ++e) {
    Sequence block;
    {
      auto log = Value(Log::Open(start));
      EXPECT(!log->Current());
      EXPECT_EQ(Value(log->State()), "");
      EXPECT_EQ(Values(*log).size(), 0u);
      EXPECT_EQ(Blocks(*log).size(), 0u);
      Changes changes;
      changes.state = "state";
      changes.values = {{"v", "1"}};
      block = Add(*log, &changes, 100, 10, 1)->sequence();
      EXPECT_EQ(Value(log->Commit(changes, log->NextSequence())).epoch, 1u);
    }
    auto log = Value(Log::Open(At(directory / "store")));
    EXPECT_EQ(Blocks(*log), std::vector<Sequence>{block});
    EXPECT_EQ(Values(*log)["v"], "1");
  }
  Value(Log::Open(start));
  EXPECT(!Value(Log::Open(At(directory / "store")))->Current());  // it stays so

  std::vector<Sequence> blocks;
  CommitThree(directory / "store", &blocks);
  EXPECT(Log::Open(start).status().code() == Code::kNotFound);
}

TEST(AStoreIsReadBesideItsWriter) {
  TemporaryDirectory directory;
  std::vector<Sequence> blocks;
  CommitThree(directory / "store", &blocks);
  auto writer = Value(Log::Open(At(directory / "store")));
  EXPECT(InChild([&] {
    LogOptions options = At(directory / "store");
    options.read_only = true;
    auto last = Value(Log::Open(options));
    bool held = Blocks(*last).size() == 2 && last->Current()->epoch == 3;
    held = held && ReadOne(*last, blocks[2], 1, 301, 1).ok();
    held = held && last->Drain().code() == Code::kUnavailable;
    last.reset();
    options.epoch = 2;
    auto older = Value(Log::Open(options));
    return held && Values(*older)["v"] == "2" && ReadOne(*older, blocks[0], 1, 101, 1).ok() &&
           Value(older->State()) == "state 2";
  }));
  EXPECT_EQ(writer->Epochs().size(), 2u);
}

TEST(DeadBlocksMakeRoomForNewOnes) {
  TemporaryDirectory directory;
  auto log = Value(Log::Open(At(directory / "store")));
  std::vector<BlockLiveness> previous, dead;
  int64_t bytes_after_warmup = 0;
  for (int epoch = 0; epoch < 30; ++epoch) {
    Changes changes;
    for (int b = 0; b < 50; ++b) Add(*log, &changes, b * 100, 100, epoch);
    const std::vector<BlockLiveness> fresh = changes.liveness;
    for (BlockLiveness gone : previous) {
      gone.live.assign(gone.live.size(), 0);
      changes.liveness.push_back(gone);
    }
    for (const BlockLiveness& b : dead) changes.dead.push_back(b.sequence);
    Value(log->Commit(changes, log->NextSequence()));
    dead = previous;
    previous = fresh;
    if (epoch == 8) bytes_after_warmup = log->Stats().file_bytes;
  }
  EXPECT_EQ(Blocks(*log).size(), 50u);
  EXPECT_LE(log->Stats().file_bytes, bytes_after_warmup * 3 / 2);
  EXPECT_LT(0, log->Stats().free_bytes);
}

TEST(DiscardedBlocksMakeRoomForNewOnes) {
  TemporaryDirectory directory;
  LogOptions options = At(directory / "store");
  options.scratch = true;
  auto log = Value(Log::Open(options));
  int64_t bytes_after_warmup = 0;
  for (int round = 0; round < 30; ++round) {
    std::vector<Sequence> sequences;
    for (int b = 0; b < 50; ++b) {
      sequences.push_back(log->NextSequence());
      log->Append(BlockOf(sequences.back(), b * 100, 100, round));
    }
    log->Discard(sequences.back());  // most likely still queued
    Ok(log->Drain());
    EXPECT(!ReadOne(*log, sequences.back(), 0, 4900, round).ok());
    Ok(ReadOne(*log, sequences[0], 0, 0, round));
    for (const Sequence sequence : sequences) log->Discard(sequence);
    if (round == 5) bytes_after_warmup = log->Stats().file_bytes;
  }
  EXPECT_LE(log->Stats().file_bytes, bytes_after_warmup * 3 / 2);
}

TEST(TheMapGrowsWhenItIsFull) {
  TemporaryDirectory directory;
  LogOptions options = At(directory / "store");
  options.map_bytes = 1 << 20;
  auto log = Value(Log::Open(options));
  Changes changes;
  std::vector<Sequence> sequences;
  for (int b = 0; b < 500; ++b)
    sequences.push_back(Add(*log, &changes, b * 100, 200, 1)->sequence());
  changes.state = std::string(20 << 20, 's');
  Value(log->Commit(changes, log->NextSequence()));
  for (int b = 0; b < 500; ++b)
    Ok(ReadOne(*log, sequences[static_cast<size_t>(b)], 9, b * 100 + 9, 1));
  EXPECT(Value(log->State()) == changes.state);
}

TEST(AnAppendWaitsForRoomInTheQueue) {
  TemporaryDirectory directory;
  LogOptions options = At(directory / "store");
  options.transaction_bytes = 64 << 10;
  options.queue_bytes = 128 << 10;
  auto log = Value(Log::Open(options));
  for (int b = 0; b < 200; ++b) {
    log->Append(BlockOf(log->NextSequence(), b * 100, 200, 1));
    EXPECT_LE(log->Stats().queued_bytes, 128 << 10);
  }
  EXPECT_LT(3, log->Stats().transactions);
}

TEST(WhatACommitQueuedOnPurposeMakesNobodyElseWait) {
  TemporaryDirectory directory;
  LogOptions options = At(directory / "store");
  options.queue_bytes = 64 << 10;
  auto log = Value(Log::Open(options));
  for (int b = 0; b < 20; ++b) log->Append(BlockOf(log->NextSequence(), b * 100, 100, 1), 1 << 20);
  Ok(log->Ready());
  EXPECT_LT(64 << 10, log->Stats().queued_bytes);
}

TEST(ReadersAppendersAndCommitsRunSideBySide) {
  TemporaryDirectory directory;
  LogOptions options = At(directory / "store");
  options.transaction_bytes = 64 << 10;
  options.map_bytes = 1 << 20;  // and the map grows meanwhile
  auto log = Value(Log::Open(options));
  const Sequence first = log->NextSequence();
  log->Append(BlockOf(first, 0, 100, 1));
  Ok(log->Drain());
  std::atomic<bool> stop{false}, failed{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        std::vector<std::byte> record(kRecordBytes);
        const ReadRequest request{first, 5, 5, 5, kRecordBytes, record.data()};
        if (!log->Read(&request, 1).ok() || record != RecordOf(5, 1)) failed = true;
        log->Stats();
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) {
      if (!log->Commit({}, first + 1).ok()) failed = true;
    }
  });
  for (int b = 1; b < 300; ++b) log->Append(BlockOf(log->NextSequence(), b * 100, 100, 1));
  Ok(log->Drain());
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT(!failed);
}

TEST(ASecondOpeningIsRefusedAndNamesTheHolder) {
  TemporaryDirectory directory;
  auto log = Value(Log::Open(At(directory / "store")));
  const std::string pid = "pid " + std::to_string(getpid());
  const Status same = Log::Open(At(directory / "store/")).status();
  EXPECT(same.code() == Code::kUnavailable);
  EXPECT(Contains(same.message(), pid), same.message());
  EXPECT(InChild([&] {
    const Status other = Log::Open(At(directory / "store")).status();
    return other.code() == Code::kUnavailable && Contains(other.message(), pid + ", host ") &&
           Contains(other.message(), ", boot ");
  }));
  log.reset();
  EXPECT(InChild([&] { return Log::Open(At(directory / "store")).ok(); }));
  Value(Log::Open(At(directory / "store")));
}

TEST(AForkedChildIsRefusedAndDoesNoHarm) {
  TemporaryDirectory directory;
  std::vector<Sequence> blocks;
  CommitThree(directory / "store", &blocks);
  auto log = Value(Log::Open(At(directory / "store")));
  auto block = BlockOf(log->NextSequence(), 0, 10, 1);
  EXPECT(InChild([&] {
    const Status refused = log->Ready();
    bool held = refused.code() == Code::kUnavailable && Contains(refused.message(), "forked child");
    held = held && !log->Drain().ok() && !log->Commit({}, 1).ok() && !log->State().ok();
    held = held && !ReadOne(*log, blocks[2], 1, 301, 1).ok();
    held = held && !log->ForEachBlock([](const BlockLiveness&) {}).ok();
    held = held && log->Epochs().empty() && log->Stats().file_bytes == 0;
    log->Discard(blocks[2]);
    log.reset();
    return held;
  }));
  log->Append(block);
  Ok(log->Drain());
  Ok(ReadOne(*log, blocks[2], 1, 301, 1));
  EXPECT(InChild([&] { return !Log::Open(At(directory / "store")).ok(); }));
}

}  // namespace
}  // namespace recis
