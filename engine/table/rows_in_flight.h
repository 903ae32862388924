// The rows that a prefetch is reading at the moment.
//
// A lookup that needs one of them waits for it, instead of reading it a second time.
//
// Threads: any method from any thread; one prefetch at a time.
// Invariants:
//  (1) Who waits holds no lock of the table: the prefetch takes it before it ends.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "base/row.h"

namespace recis {

class RowsInFlight {
 public:
  // These are, until End().
  void Begin(std::vector<Row> rows) {
    std::sort(rows.begin(), rows.end());
    const std::lock_guard<std::mutex> lock(mutex_);
    rows_ = std::move(rows);
  }
  void End() {
    const std::lock_guard<std::mutex> lock(mutex_);
    rows_ = {};
    ++ended_;
    changed_.notify_all();
  }

  // The prefetch that is reading one of the rows for which `wanted` holds; 0 if there is none.
  template <class Wanted>
  uint64_t Reading(const Row* rows, int64_t n, Wanted&& wanted) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (rows_.empty()) return 0;
    const bool any = std::any_of(rows, rows + n, [&](Row row) {
      return wanted(row) && std::binary_search(rows_.begin(), rows_.end(), row);
    });
    return any ? ended_ + 1 : 0;
  }
  // Returns when it has ended.
  void Await(uint64_t prefetch) const {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return ended_ >= prefetch; });
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Row> rows_;  // GUARDED_BY(mutex_): ascending
  uint64_t ended_ = 0;     // GUARDED_BY(mutex_): prefetches
};

}  // namespace recis
