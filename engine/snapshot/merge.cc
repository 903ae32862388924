#include "snapshot/merge.h"

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "table/snapshot_source.h"

namespace recis {
namespace {

constexpr int64_t kGrain = 1024;  // rows below which threads do not pay

// The next id of an input.
struct Head {
  uint32_t slice;
  int64_t id;
  int32_t input;
  int64_t row;
};

bool SameId(const Head& a, const Head& b) { return a.slice == b.slice && a.id == b.id; }

bool Before(const Head& a, const Head& b) {
  if (a.slice != b.slice) return a.slice < b.slice;
  if (a.id != b.id) return a.id < b.id;
  return a.input > b.input;  // the one that decides
}

}  // namespace

int64_t Merge(const std::vector<MergeInput>& inputs, uint32_t slices, int32_t* which,
              int64_t* rows) {
  const auto at = [&](int32_t input, int64_t row) {
    const int64_t id = inputs[static_cast<size_t>(input)].ids[row];
    return Head{SliceOf(id, slices), id, input, row};
  };
  // A heap whose front is the first of all inputs but the one that is being followed.
  std::vector<Head> others;
  const auto after = [](const Head& a, const Head& b) { return Before(b, a); };
  for (size_t k = 0; k < inputs.size(); ++k) {
    if (inputs[k].size > 0) others.push_back(at(static_cast<int32_t>(k), 0));
  }
  std::make_heap(others.begin(), others.end(), after);

  int64_t count = 0;
  const auto keep = [&](const Head& head) {
    which[count] = head.input;
    rows[count++] = head.row;
  };
  while (!others.empty()) {
    std::pop_heap(others.begin(), others.end(), after);
    Head head = others.back();
    others.pop_back();
    const MergeInput& input = inputs[static_cast<size_t>(head.input)];
    // Inputs that have this id, too, come next, and have no say.
    while (!others.empty() && SameId(others.front(), head)) {
      std::pop_heap(others.begin(), others.end(), after);
      const Head same = others.back();
      others.pop_back();
      if (same.row + 1 < inputs[static_cast<size_t>(same.input)].size) {
        others.push_back(at(same.input, same.row + 1));
        std::push_heap(others.begin(), others.end(), after);
      }
    }
    if (!input.deleted) keep(head);
    // Mostly one input is far larger than the others and has long runs to itself.
    while (++head.row < input.size) {
      head = at(head.input, head.row);
      if (!others.empty() && (SameId(others.front(), head) || Before(others.front(), head))) {
        others.push_back(head);
        std::push_heap(others.begin(), others.end(), after);
        break;
      }
      if (!input.deleted) keep(head);
    }
  }
  return count;
}

void GatherMerged(const std::vector<MergeSource>& sources, size_t row_bytes, const int32_t* which,
                  const int64_t* rows, int64_t n, std::byte* out) {
  ParallelFor(n, kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      int64_t next = begin + 1;
      while (next < end && which[next] == which[begin] && rows[next] == rows[next - 1] + 1) ++next;
      const MergeSource& source = sources[static_cast<size_t>(which[begin])];
      std::memcpy(out + static_cast<size_t>(begin) * row_bytes,
                  source.data + static_cast<size_t>(rows[begin] - source.first) * row_bytes,
                  static_cast<size_t>(next - begin) * row_bytes);
      begin = next;
    }
  });
}

}  // namespace recis
