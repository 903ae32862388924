// The records of one table, whether all of them live in memory or some of them in a store.
//
// Without a store a record lies where its row says. With one, a row is made hot before its
// record is written, and read wherever it is.
//
// Threads: At(), Locate() and the other const methods from any while no other runs; the rest
//   by one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "base/row.h"
#include "base/status.h"
#include "hot/arena.h"
#include "store/tier.h"

namespace recis {

class Records {
 public:
  // In memory.
  Records(RecordLayout layout, int64_t block_rows)
      : layout_(std::move(layout)), arena_(layout_.record_bytes, block_rows) {}
  // In a store.
  Records(RecordLayout layout, int64_t block_rows, std::unique_ptr<Tier> tier)
      : Records(std::move(layout), block_rows) {
    tier_ = std::move(tier);
  }

  // Whether records may be used; whether they may also be changed.
  Status Usable() const { return tier_ ? tier_->store().Usable() : Status(); }
  Status Changeable() const { return tier_ ? tier_->store().Changeable() : Status(); }

  // Room for rows below `end`. Fresh records in memory are zeros.
  Status Reserve(int64_t end) { return tier_ ? tier_->Reserve(end) : arena_.Reserve(end); }

  // Whether At() will do for all rows.
  bool all_hot() const { return !tier_ || tier_->all_hot(); }
  std::byte* At(Row row) const {  // REQUIRES: hot
    return tier_ ? tier_->At(row) : arena_.At(row);
  }

  using Use = Tier::Use;
  // Calls body(first, count) for runs of `rows`, in order, whose records are hot meanwhile.
  // kNoRow may stand among them. See Tier::Hold().
  template <class Body>
  Status Update(const Row* rows, int64_t n, Use use, Body&& body) {
    if (!tier_) {
      body(int64_t{0}, n);
      return {};
    }
    for (int64_t first = 0; first < n;) {
      Result<int64_t> held = tier_->Hold(rows + first, n - first, use);
      if (!held.ok()) {
        if (first > 0) tier_->store().Break(held.status());
        return held.status();
      }
      body(first, held.value());
      tier_->Release();
      first += held.value();
    }
    Tidy();
    return {};
  }
  // These distinct rows are used: makes as many of them hot as there is room for.
  Status Promote(const Row* rows, int64_t n);
  // The same before they are used. `read`: see Tier::Hold().
  Status Prefetch(const Row* rows, int64_t n, const ColdReads& read);
  // Finds records to read. Rows without a record are null in a store and zeros in memory.
  Status Locate(const Row* rows, int64_t n, Sources* sources) const;

  // The row has no record any more.
  void Free(Row row);
  void Clear();
  // After freeing rows: takes the space of their cold copies back.
  void Tidy() {
    if (tier_) tier_->store().CleanSome();
  }
  // Gives the records of the live rows below `end` the new layout.
  Status ChangeLayout(RecordLayout layout, int64_t end, const std::function<bool(Row)>& live);

  const RecordLayout& layout() const { return layout_; }
  Tier* tier() const { return tier_.get(); }     // null in memory
  const Arena& arena() const { return arena_; }  // REQUIRES: in memory

 private:
  RecordLayout layout_;
  Arena arena_;  // unused in a store
  std::unique_ptr<Tier> tier_;
};

}  // namespace recis
