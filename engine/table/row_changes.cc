#include "table/row_changes.h"

#include <algorithm>

namespace recis {

void RowSet::Add(Row row) {
  const size_t word = row / 64;
  if (word >= words_.size()) words_.resize(std::max(word + 1, words_.size() * 3 / 2));
  words_[word] |= uint64_t{1} << row % 64;
}

void RowSet::Add(const RowSet& other) {
  words_.resize(std::max(words_.size(), other.words_.size()));
  for (size_t i = 0; i < other.words_.size(); ++i) words_[i] |= other.words_[i];
}

void RowChanges::Add(RowChanges other) {
  rows.Add(other.rows);
  freed.insert(freed.end(), other.freed.begin(), other.freed.end());
}

}  // namespace recis
