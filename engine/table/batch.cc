#include "table/batch.h"

#include <cstring>

namespace recis {

std::vector<uint32_t> Batch::Counts() const {
  std::vector<uint32_t> counts(static_cast<size_t>(distinct), 0);
  const auto* each = times.as<uint32_t>();
  for (int64_t i = 0; i < size; ++i) counts[inverse_data()[i]] += each == nullptr ? 1 : each[i];
  return counts;
}

Occurrences::Occurrences(const uint32_t* inverse, int64_t size, int64_t distinct)
    : offsets(BufferCache::Get(static_cast<size_t>(distinct + 2) * sizeof(uint32_t))),
      positions(BufferCache::Get(static_cast<size_t>(size) * sizeof(uint32_t))) {
  // A counting sort: counts two places on, so that after the scatter, which moves each
  // start to its end, the offsets lie where they belong.
  uint32_t* next = offsets.as<uint32_t>() + 1;
  std::memset(offsets.data(), 0, static_cast<size_t>(distinct + 2) * sizeof(uint32_t));
  for (int64_t i = 0; i < size; ++i) ++next[inverse[i] + 1];
  for (int64_t i = 1; i <= distinct; ++i) next[i] += next[i - 1];
  for (int64_t i = 0; i < size; ++i) {
    positions.as<uint32_t>()[next[inverse[i]]++] = static_cast<uint32_t>(i);
  }
}

}  // namespace recis
