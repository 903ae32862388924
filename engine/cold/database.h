// LMDB as the log uses it: four databases, one writer at a time, any number of views.
//
// Threads: any method from any thread. A View is used by one thread at a time.
// Invariants:
//  (1) A transaction is durable when Write() returns ok, or it did not happen. After a failed
//      sync nobody knows which, so nothing is written any more, and views are of the state
//      before.
//  (2) What a View has found stays in place, in the map and in the file, while the View lives.
#pragma once

#include <lmdb.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>

#include "base/status.h"

namespace recis {

enum Db { kBlocks, kIds, kLive, kMeta, kDbCount };

// The key of a sequence: 8 bytes, of this machine's order.
std::string_view KeyOf(const uint64_t& sequence);
uint64_t SequenceOf(std::string_view key);

class Database;

// A transaction that reads and, within Database::Write(), writes.
class Transaction {
 public:
  // Points into the file's map; valid until the transaction ends or writes.
  Result<std::optional<std::string_view>> Get(Db db, std::string_view key) const;
  Status Put(Db db, std::string_view key, std::string_view value);
  // REQUIRES: the key is above all others.
  Status Append(Db db, std::string_view key, std::string_view value);
  Status Delete(Db db, std::string_view key);  // no error where there is none
  // Calls use(key, value) in the order of keys, on those that begin with `prefix`, until it fails.
  Status ForEach(Db db, std::string_view prefix,
                 const std::function<Status(std::string_view, std::string_view)>& use) const;
  // The greatest sequence of a database, 0 if it is empty.
  Result<uint64_t> LastSequence(Db db) const;

 private:
  friend class Database;
  friend class View;
  Status PutWith(unsigned flags, Db db, std::string_view key, std::string_view value);
  Status Error(int code, const char* what) const;

  const Database* database_ = nullptr;
  MDB_txn* txn_ = nullptr;
  mutable int failure_ = 0;  // LMDB's last error
};

// A state of the databases, unchanged by later transactions.
class View {
 public:
  ~View();
  View(View&& other) noexcept;
  const Transaction* operator->() const { return &transaction_; }

  // Where a value that Get() found lies in the file.
  uint64_t OffsetOf(std::string_view value) const;
  // Whether the system's cache has these bytes of the file.
  bool Cached(uint64_t offset, size_t bytes) const;
  // Lets others look values up, where views share one transaction. Nothing is looked up after it.
  void Unlock();

 private:
  friend class Database;
  View() = default;

  Transaction transaction_;
  bool owned_ = false;
  std::shared_lock<std::shared_mutex> map_;
  std::unique_lock<std::mutex> lookup_;
};

class Database {
 public:
  struct Options {
    std::string path;  // of the directory
    bool scratch;      // an empty one, whose transactions are not synced
    bool read_only;    // all views are of the moment of opening
    size_t map_bytes;  // of address space; less where the system refuses, more when it is full
  };
  static constexpr uint32_t kFormat = 1;

  static Result<std::unique_ptr<Database>> Open(const Options& options);
  ~Database();

  // Runs `body` in a transaction and commits it if it returns ok. `body` may run twice.
  Status Write(const std::function<Status(Transaction&)>& body);
  Result<View> Read() const;

  // Ok until a sync has failed.
  Status Usable() const;
  const std::string& path() const { return options_.path; }
  std::string file() const;  // its path
  int64_t file_bytes() const;
  int64_t free_bytes() const;
  int64_t transactions() const { return transactions_.load(std::memory_order_relaxed); }

 private:
  friend class Transaction;
  friend class View;

  explicit Database(Options options) : options_(std::move(options)) {}
  Status Create();           // the file, whole or not at all
  Status OpenEnvironment();  // maps the file
  Status WriteOnce(const std::function<Status(Transaction&)>& body, MDB_txn** before, int* failure);
  Status OpenDatabases(MDB_txn* txn, unsigned flags);
  Status CheckFormat();
  Status FindMap();  // REQUIRES: nobody else uses the map
  Status GrowMap();
  Status Error(int code, const std::string& what) const;
  Status Poison(const Status& cause);

  const Options options_;
  MDB_env* env_ = nullptr;
  MDB_dbi dbs_[kDbCount] = {};
  size_t page_bytes_ = 0;
  uintptr_t map_ = 0;  // GUARDED_BY(map_mutex_): address of the file's first byte, 0 if it is lost
  // GUARDED_BY(map_mutex_): the one transaction of all views of a read_only or poisoned database
  MDB_txn* pinned_ = nullptr;
  mutable std::mutex pinned_mutex_;
  mutable std::shared_mutex map_mutex_;  // shared by whoever has a transaction
  mutable std::mutex write_mutex_;
  mutable std::mutex poison_mutex_;
  Status poison_;  // GUARDED_BY(poison_mutex_)
  std::atomic<int64_t> transactions_{0};
};

}  // namespace recis
