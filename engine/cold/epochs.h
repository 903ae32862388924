// The epochs of a store: what each commit says of blocks and values, and how the store gets back
// to one.
//
// Everything but the epochs' own record is written before it, in as many transactions as it
// takes, as versions of an epoch that does not exist until that record does.
//
// Threads: Commit() by one at a time; the rest from any thread, beside it.
// Invariants:
//  (1) The last two epochs can be opened at any instant, so a value has up to three versions
//      while a commit is under way.
//  (2) What the record does not know of is ignored by every reader.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cold/block_writer.h"
#include "cold/database.h"
#include "cold/log.h"

namespace recis {

class Epochs {
 public:
  explicit Epochs(Database* database) : database_(database) {}

  // Chooses the epoch to go on from, the last by default.
  Status Load(std::optional<uint64_t> chosen);
  // Removes from the file what that epoch and the one before it do not know. Returns the next
  // sequence.
  Result<Sequence> Recover();

  // Adds to `garbage` what nobody needs any more once this returned ok.
  Result<Epoch> Commit(const Changes& changes, Sequence end, std::vector<Garbage>* garbage);
  std::vector<Epoch> All() const;
  std::optional<Epoch> Current() const;

  Status ForEachBlock(const std::function<void(const BlockLiveness&)>& use) const;
  Status ReadIds(
      const std::vector<Sequence>& blocks,
      const std::function<void(Sequence, const int64_t*, const Row*, uint32_t)>& use) const;
  Status ForEachValue(const std::string& prefix,
                      const std::function<void(std::string_view, std::string_view)>& use) const;
  Result<std::string> State() const;

 private:
  // An epoch as it is stored.
  struct Record {
    uint64_t epoch;
    int64_t step;
    int64_t seconds;
    Sequence end;  // blocks from here on are not part of it
    uint64_t state_bytes;
    uint64_t state_checksum;  // xxh3
  };
  static_assert(sizeof(Record) == 48);
  // A piece of a change too large for one transaction.
  struct Piece {
    size_t bytes;
    std::function<Status(Transaction&)> write;
  };

  static std::string Serialize(const std::vector<Record>& records);
  Status Write(const std::vector<Piece>& pieces);
  Piece PutVersion(Db db, std::string key, std::string bytes, uint64_t epoch);
  // The pieces that bring versions and state chunks back to the current epoch.
  Status Revert(const Transaction& view, std::vector<Piece>* pieces) const;
  Result<Sequence> FindNewer(const Transaction& view, std::vector<Piece>* pieces) const;
  Status FindOrphans(const Transaction& view, std::vector<Piece>* pieces) const;
  Status Damaged(const std::string& what) const;
  Status Missing(Sequence sequence) const;
  std::vector<Record> Records() const;
  Record CurrentRecord() const;  // epoch 0 before the first
  uint64_t OldestEpoch() const;

  Database* const database_;
  mutable std::mutex mutex_;
  std::vector<Record> records_;  // GUARDED_BY(mutex_): the last two, older first
  bool torn_ = false;            // a Commit() failed and left versions of the epoch it wanted
};

}  // namespace recis
