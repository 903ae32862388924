// What the loops over the rows of a table share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace recis {

inline constexpr int64_t kRowGrain = 1024;  // rows below which a thread does not pay
inline constexpr int kBlockIds = 64;        // ids whose records are fetched before they are copied
inline constexpr size_t kCacheLine = 64;

// Starts to bring a record into the processor's cache. The processor follows a run by
// itself once it has seen its start.
inline void Fetch(const std::byte* record, size_t bytes) {
  const size_t fetched = std::min<size_t>(bytes, 4 * kCacheLine);
  for (size_t i = 0; i < fetched; i += kCacheLine) __builtin_prefetch(record + i);
}

}  // namespace recis
