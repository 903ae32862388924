// Which rows changed, and which ids lost theirs, since a moment.
//
// Threads: const methods from any while no other runs; the rest by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/row.h"

namespace recis {

// A set of rows, one bit each.
class RowSet {
 public:
  bool Has(Row row) const {
    const size_t word = row / 64;
    return word < words_.size() && (words_[word] >> row % 64 & 1) != 0;
  }
  // Add() of rows below `end` takes no more memory.
  void Reserve(Row end) { words_.resize((static_cast<size_t>(end) + 63) / 64); }
  void Add(Row row);
  void Add(const RowSet& other);

 private:
  std::vector<uint64_t> words_;
};

struct RowChanges {
  RowSet rows;                 // written or made, and perhaps freed since
  std::vector<int64_t> freed;  // ids, and perhaps back since

  // What changed then or since.
  void Add(RowChanges other);
};

}  // namespace recis
