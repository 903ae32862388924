#include "snapshot/find.h"

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"

namespace recis {
namespace {

constexpr int64_t kGrain = 1024;  // ids below which threads do not pay
constexpr int kAhead = 16;        // ids whose slices are searched side by side

struct Search {
  const int64_t* at;  // the id is not before it
  int64_t left;       // nor behind the last of these
};

}  // namespace

void FindSorted(const SortedIds& part, const int64_t* ids, int64_t n, int64_t* rows) {
  const auto begin_of = [&](int64_t id) {
    const uint32_t slice = SliceOf(id, part.range.slices);
    if (slice < part.range.begin || slice >= part.range.end) return Search{part.ids, 0};
    const int64_t* offsets = part.slice_offsets + (slice - part.range.begin);
    const int64_t begin = std::clamp<int64_t>(offsets[0], 0, part.size);
    const int64_t end = std::clamp<int64_t>(offsets[1], begin, part.size);
    return Search{part.ids + begin, end - begin};
  };
  ParallelFor(n, kGrain, [&](int64_t first, int64_t last) {
    Search searches[kAhead];
    for (int64_t i = first; i < last; i += kAhead) {
      const int count = static_cast<int>(std::min<int64_t>(kAhead, last - i));
      int64_t longest = 0;
      for (int k = 0; k < count; ++k) {
        searches[k] = begin_of(ids[i + k]);
        longest = std::max(longest, searches[k].left);
      }
      // A step of all of them, so that their reads are on the way together.
      for (; longest > 1; longest -= longest / 2) {
        for (int k = 0; k < count; ++k) {
          Search& search = searches[k];
          const int64_t half = search.left / 2;
          if (half > 0 && search.at[half] <= ids[i + k]) search.at += half;
          search.left -= half;
          __builtin_prefetch(search.at + search.left / 2);
        }
      }
      for (int k = 0; k < count; ++k) {
        const bool found = searches[k].left > 0 && *searches[k].at == ids[i + k];
        rows[i + k] = found ? searches[k].at - part.ids : -1;
      }
    }
  });
}

void GatherRows(const std::byte* source, size_t row_bytes, const int64_t* rows, int64_t n,
                std::byte* out) {
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < end && rows[i + kAhead] >= 0) {
        __builtin_prefetch(source + static_cast<size_t>(rows[i + kAhead]) * row_bytes);
      }
      if (rows[i] < 0) continue;
      std::memcpy(out + static_cast<size_t>(i) * row_bytes,
                  source + static_cast<size_t>(rows[i]) * row_bytes, row_bytes);
    }
  });
}

}  // namespace recis
