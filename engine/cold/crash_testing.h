// A workload whose content after every commit is known, to be run under faults.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cold/database.h"
#include "cold/log_testing.h"

namespace recis::testing {

// Appends, drains, discards, commits and reopens. What an epoch writes follows from its number:
// a third of the ids anew, and one id of another third, whose block thereby has a hole.
class LogWorkload {
 public:
  static constexpr uint64_t kEpochs = 7;

  // Runs to the last epoch from whatever the store at `path` has. A step that fails is tried
  // once more, after reopening if the log asks for that; `failures` counts them.
  static void Run(const std::string& path, const std::function<void(uint64_t)>& acknowledged,
                  int* failures = nullptr) {
    int ignored = 0;
    LogWorkload workload(path, failures != nullptr ? failures : &ignored);
    workload.Open();
    while (workload.epoch_ < kEpochs) {
      if (!workload.RunEpoch()) {
        workload.Open();
        continue;
      }
      acknowledged(workload.epoch_);
      if (workload.epoch_ % 3 == 2) workload.Open();
    }
  }

  // Opens the store and holds its content against the epoch it says it has. Returns that.
  static uint64_t Check(const std::string& path) {
    auto log = Value(Log::Open(Options(path)));
    const uint64_t epoch = log->Current() ? log->Current()->epoch : 0;
    CheckContent(*log, epoch);
    log.reset();
    CheckNothingElse(path);
    if (epoch < 2) return epoch;
    LogOptions options = Options(path);
    options.read_only = true;
    options.epoch = epoch - 1;
    CheckContent(*Value(Log::Open(options)), epoch - 1);
    return epoch;
  }

  static void CheckContent(const Log& log, uint64_t epoch) {
    std::map<int64_t, uint64_t> found;
    for (const auto& [id, place] : PlacesIn(log)) {
      const uint64_t salt = SaltOf(log, id, place);
      if (!found.insert({id, salt}).second) throw Failure{"two live records of one id"};
    }
    EXPECT(found == Expected(epoch), epoch);
    std::map<std::string, std::string> values;
    Ok(log.ForEachValue("", [&](std::string_view key, std::string_view value) {
      values[std::string(key)] = value;
    }));
    std::map<std::string, std::string> expected;
    for (const auto& [key, value] : ValuesOf(epoch)) {
      if (!value.empty()) expected[key] = value;
    }
    EXPECT(values == expected, epoch);
    EXPECT(Value(log.State()) == StateOf(epoch), epoch);
    if (epoch != 0) EXPECT_EQ(log.Current()->step, static_cast<int64_t>(epoch * 10));
  }

  static LogOptions Options(const std::string& path) {
    LogOptions options = At(path);
    options.transaction_bytes = 1;  // one block each, so that runs make the same calls
    return options;
  }

 private:
  static constexpr int64_t kGroups = 3, kBlocks = 3, kRows = 20;
  struct Place {
    Sequence sequence;
    uint32_t position;
  };

  LogWorkload(std::string path, int* failures) : path_(std::move(path)), failures_(failures) {}

  static int64_t FirstId(uint64_t group, int64_t block) {
    return static_cast<int64_t>(group % kGroups) * 1000 + block * 100;
  }
  static int64_t MovedId(uint64_t epoch) { return FirstId(epoch + 1, 0) + 1; }

  // Salts by id.
  static std::map<int64_t, uint64_t> Expected(uint64_t epoch) {
    std::map<int64_t, uint64_t> salts;
    for (uint64_t e = 1; e <= epoch; ++e) {
      for (int64_t b = 0; b < kBlocks; ++b) {
        for (int64_t i = 0; i < kRows; ++i) salts[FirstId(e, b) + i] = e;
      }
      salts[MovedId(e)] = e;
    }
    return salts;
  }
  static std::vector<std::pair<std::string, std::string>> ValuesOf(uint64_t epoch) {
    if (epoch == 0) return {};
    return {{"always", std::to_string(epoch)},
            {"large", std::string(10000, static_cast<char>('a' + epoch))},
            {"odd", epoch % 2 == 1 ? "here" : ""}};
  }
  static std::string StateOf(uint64_t epoch) {
    return std::string(epoch == 3 ? 5 << 20 : epoch * 500, static_cast<char>(epoch));
  }

  static std::map<int64_t, Place> PlacesIn(const Log& log) {
    std::map<int64_t, Place> places;
    std::map<Sequence, std::string> live;
    std::vector<Sequence> blocks;
    Ok(log.ForEachBlock([&](const BlockLiveness& block) {
      live[block.sequence] = block.live;
      blocks.push_back(block.sequence);
    }));
    Ok(log.ReadIds(blocks, [&](Sequence sequence, const int64_t* ids, const Row*, uint32_t n) {
      for (uint32_t i = 0; i < n; ++i) {
        if ((live[sequence][i / 8] >> i % 8 & 1) == 0) continue;
        if (!places.insert({ids[i], {sequence, i}}).second) throw Failure{"an id is live twice"};
      }
    }));
    return places;
  }

  static uint64_t SaltOf(const Log& log, int64_t id, const Place& place) {
    std::vector<std::byte> record(kRecordBytes);
    const ReadRequest request{place.sequence,       place.position, id,
                              static_cast<Row>(id), kRecordBytes,   record.data()};
    Ok(log.Read(&request, 1));
    for (uint64_t salt = 1; salt <= kEpochs; ++salt) {
      if (record == RecordOf(id, salt)) return salt;
    }
    throw Failure{"a record that was never written, of id " + std::to_string(id)};
  }

  // After opening, each block in the file is live in one of its epochs.
  static void CheckNothingElse(const std::string& path) {
    auto database = Value(Database::Open({path, false, /*read_only=*/true, kTestMapBytes}));
    auto view = Value(database->Read());
    std::map<Db, std::vector<Sequence>> sequences;
    for (const Db db : {kBlocksOf, kIdsOf, kLiveOf}) {
      Ok(view->ForEach(db, "", [&](std::string_view key, std::string_view) -> Status {
        sequences[db].push_back(SequenceOf(key));
        return {};
      }));
    }
    EXPECT(sequences[kBlocksOf] == sequences[kLiveOf]);
    EXPECT(sequences[kIdsOf] == sequences[kLiveOf]);
  }
  static constexpr Db kBlocksOf = Db::kBlocks, kIdsOf = Db::kIds, kLiveOf = Db::kLive;

  void Open() {
    log_.reset();
    for (int attempt = 0; log_ == nullptr; ++attempt) {
      auto log = Log::Open(Options(path_));
      if (log.ok()) {
        log_ = std::move(log.value());
      } else if (attempt == 0) {
        ++*failures_;
      } else {
        throw Failure{log.status().message()};
      }
    }
    emptied_.clear();
    epoch_ = log_->Current() ? log_->Current()->epoch : 0;
    CheckContent(*log_, epoch_);
  }

  // Does a step, twice if need be. False if the log must be reopened.
  bool Try(const std::function<Status()>& step) {
    Status status = step();
    if (status.ok()) return true;
    ++*failures_;
    CheckContent(*log_, epoch_);  // reads go on, and show the last commit
    status = step();
    if (!status.ok() && status.code() != Code::kUnavailable) throw Failure{status.message()};
    return status.ok();
  }

  bool RunEpoch() {
    const uint64_t epoch = epoch_ + 1;
    std::map<int64_t, Place> places = PlacesIn(*log_);
    std::map<Sequence, BlockLiveness> live;
    Ok(log_->ForEachBlock([&](const BlockLiveness& block) { live[block.sequence] = block; }));
    std::map<Sequence, BlockLiveness> changed;
    auto kill = [&](int64_t id) {
      const auto it = places.find(id);
      if (it == places.end()) return;
      const auto [at, position] = it->second;
      BlockLiveness& block = changed.insert({at, live[at]}).first->second;
      block.live[position / 8] &= static_cast<char>(~(1 << position % 8));
    };
    Changes changes;
    auto append = [&](int64_t first, uint32_t rows) {
      const auto block = BlockOf(log_->NextSequence(), first, rows, epoch);
      for (int64_t i = 0; i < rows; ++i) kill(first + i);
      changes.liveness.push_back(AllLive(*block));
      log_->Append(block);
      return Try([&] { return log_->Ready(); });
    };
    for (int64_t b = 0; b < kBlocks; ++b) {
      if (!append(FirstId(epoch, b), kRows)) return false;
      if (b == 1 && !Try([&] { return log_->Drain(); })) return false;
    }
    if (!append(MovedId(epoch), 1)) return false;
    const auto unwanted = BlockOf(log_->NextSequence(), 5, 5, epoch);
    log_->Append(unwanted);
    if (epoch % 2 == 0 && !Try([&] { return log_->Drain(); })) return false;
    log_->Discard(unwanted->sequence());

    std::vector<Sequence> emptied;
    for (const auto& [sequence, block] : changed) {
      changes.liveness.push_back(block);
      if (block.live.find_first_not_of('\0') == std::string::npos) emptied.push_back(sequence);
    }
    changes.step = static_cast<int64_t>(epoch * 10);
    changes.values = ValuesOf(epoch);
    changes.state = StateOf(epoch);
    changes.dead = emptied_;
    const Sequence end = log_->NextSequence();
    if (!Try([&] { return log_->Commit(changes, end).status(); })) return false;
    emptied_ = std::move(emptied);
    epoch_ = epoch;
    return true;
  }

  const std::string path_;
  int* const failures_;
  std::unique_ptr<Log> log_;
  uint64_t epoch_ = 0;
  std::vector<Sequence> emptied_;  // blocks whose last live entry went in the last commit
};

}  // namespace recis::testing
