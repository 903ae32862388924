// One store: the log on disk, the catalog of its blocks, the budget of hot bytes and the
// tables that share them.
//
// Threads: all tables of a store share its lock, so that a commit sees all of them at one
//   moment. Methods below "under the lock" REQUIRE it exclusively; the rest take it.
// Invariants:
//  (1) Every row of a table is hot, or has a live entry in the catalog, or both.
//  (2) hot_bytes() <= the budget.
//  (3) What fails leaves the last epoch as it was.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/row.h"
#include "base/shared_mutex.h"
#include "base/status.h"
#include "base/worker.h"
#include "cold/log.h"
#include "store/catalog.h"

namespace recis {

class Tier;

using Values = std::vector<std::pair<std::string, std::string>>;

struct StoreOptions {
  LogOptions log;
  int64_t hot_bytes = std::numeric_limits<int64_t>::max();  // of records, of all tables
};

// A table as its store sees it; called under the lock.
class StoreMember {
 public:
  virtual ~StoreMember() = default;
  virtual int64_t IdOf(Row row) const = 0;
  virtual Tier& tier() = 0;
  // Adds the values, under keys of the table, that changed since the last call.
  virtual void CollectValues(Values* values) = 0;
};

// What stands before a table and has records that are newer than the table's: on a device.
class StoreFront {
 public:
  virtual ~StoreFront() = default;
  // Gives the table all that it has, and keeps changes out until the lock goes. Not under the
  // store's lock, which the table takes.
  virtual Result<std::unique_lock<std::mutex>> WriteBackAndHold() = 0;
};

struct StoreStats {
  LogStats log;
  int64_t hot_bytes = 0;
  int64_t live_bytes = 0;   // of live entries
  int64_t block_bytes = 0;  // of blocks with a live entry
  int64_t dead_bytes = 0;   // of blocks kept for a retained epoch alone
  int64_t cleaned_bytes = 0;
  int64_t scans = 0;  // of the catalog, for blocks to clean
  int64_t commits = 0;
  double commit_seconds = 0;        // of the last one
  double commit_stall_seconds = 0;  // of it, how long tables waited
};

// What a commit has of a table.
struct TableSize {
  int64_t rows = 0;
  int64_t live_bytes = 0;  // of their entries
};

class Store {
 public:
  static Result<std::shared_ptr<Store>> Open(StoreOptions options);

  // Makes all tables durable as of now, with the user's state. One commit at a time; tables
  // go on while it is being written.
  Result<Epoch> Commit(int64_t step, std::string state);
  // Lets go of the tables and the file; tables are of no use afterwards. What was not committed
  // is lost. In a child of the process that opened the store: nothing.
  void Close();

  // The last one or two commits, older first; none once closed.
  std::vector<Epoch> Epochs() const;
  // The user's state as of the opened epoch.
  Result<std::string> State() const;
  // Names of the tables as of the last commit or since, sorted.
  std::vector<std::string> Tables() const;
  // Of each of them by name, as of the opened epoch or the last commit since: reads the liveness
  // of every block, and no row.
  Result<std::map<std::string, TableSize>> Sizes() const;
  StoreStats Stats() const;
  // Whether a table of this name has joined.
  bool Joined(const std::string& name) const;
  // Takes back the joining of a table that nobody has used.
  void Leave(const std::string& name);
  // What stands before the table of this name: it is made if there is none.
  Result<std::shared_ptr<StoreFront>> Front(
      const std::string& name, const std::function<Result<std::shared_ptr<StoreFront>>()>& make);
  // Reads every block of the opened epoch; what is wrong with each damaged one. `progress` is
  // told how many blocks of how many have been read, every now and then.
  Result<std::vector<std::string>> Verify(
      const std::function<void(int64_t done, int64_t total)>& progress) const;
  const StoreOptions& options() const { return options_; }

  SharedMutex& mutex() const { return mutex_; }
  // Runs a task on the store's background thread, some time; perhaps never, if it is busy.
  void InBackground(std::function<void()> task) { worker_.Add(std::move(task)); }
  // Returns when no such task waits or runs.
  void DrainBackground() { worker_.Drain(); }

  // ---- under the lock ---------------------------------------------------------------

  // Whether tables may be used; whether they may also be changed.
  Status Usable() const;
  Status Changeable() const;

  std::shared_ptr<StoreMember> Member(const std::string& name) const;
  // The number of a table, its for good once it has joined. `known`: an epoch has it.
  uint32_t TableNumber(const std::string& name, bool* known) const;
  void Join(const std::string& name, uint32_t number, std::shared_ptr<StoreMember> member);
  static std::string KeyOf(uint32_t table, const std::string& name);
  // The values of a table as of the opened epoch, keys without the table's part.
  Status ForEachValue(uint32_t table,
                      const std::function<void(std::string_view, std::string_view)>& use) const;
  // Its live entries.
  Status ForEachEntry(uint32_t table,
                      const std::function<void(int64_t id, Row row, Location where)>& use) const;

  // Whether there is a budget, so that something may have to be spilled.
  bool limited() const { return options_.hot_bytes != StoreOptions().hot_bytes; }
  Catalog& catalog() { return catalog_; }
  const Catalog& catalog() const { return catalog_; }
  Log& log() { return *log_; }
  const Log& log() const { return *log_; }
  // Closes a block and queues it, or gives it up if it has no live entry.
  void Append(BlockNumber number);
  // A change was cut short: nothing may be changed or committed any more.
  void Break(const Status& cause);
  // Hands out hot bytes: the most blocks of `block_bytes` the table may have more, up to
  // `blocks`. A table with less than an equal share takes from the one that has most.
  int64_t Grant(Tier& tier, int64_t block_bytes, int64_t blocks);
  void GiveBack(int64_t bytes) { hot_bytes_ -= bytes; }
  // Rewrites a few mostly dead blocks if there are too many; after every spill.
  void CleanSome();

 private:
  explicit Store(StoreOptions options);
  Status Recover();
  size_t CommitQueueBytes() const;
  Tier* TierOf(uint32_t table) const;

  static constexpr size_t kMaxTasks = 8;

  const StoreOptions options_;
  mutable SharedMutex mutex_;
  std::mutex commit_mutex_;                 // before fronts_mutex_
  std::mutex fronts_mutex_;                 // before the locks of fronts, and these before mutex_
  std::unique_ptr<Log> log_;                // GUARDED_BY(mutex_): null once closed
  Catalog catalog_;                         // GUARDED_BY(mutex_)
  std::map<std::string, uint32_t> tables_;  // GUARDED_BY(mutex_)
  std::map<std::string, std::shared_ptr<StoreMember>> members_;  // GUARDED_BY(mutex_)
  std::map<std::string, std::shared_ptr<StoreFront>> fronts_;    // GUARDED_BY(fronts_mutex_)
  // GUARDED_BY(mutex_): of blocks waiting, above which appending waits
  size_t queue_bytes_ = options_.log.queue_bytes;
  int64_t hot_bytes_ = 0;                                   // GUARDED_BY(mutex_)
  std::vector<std::pair<BlockNumber, Sequence>> to_clean_;  // GUARDED_BY(mutex_)
  int64_t appended_ = 0;                                    // GUARDED_BY(mutex_): since CleanSome()
  Sequence next_scan_ = 0;                                  // GUARDED_BY(mutex_): see CleanSome()
  Status broken_;                                           // GUARDED_BY(mutex_)
  const uint64_t fork_generation_;
  StoreStats stats_;  // GUARDED_BY(mutex_)
  Worker worker_{kMaxTasks};
  Changes unsaved_;  // GUARDED_BY(commit_mutex_)
};

}  // namespace recis
