// Sums of segments of positions: of each id's gradients, of each bag's embeddings. See
// device_kernels.h.
//
// Positions are sorted by segment, and the sort keeps the order of equal ones: so each sum is taken
// in the order of positions, as on the CPU.
#pragma once

#include "device/device_rows_impl.h"
#include "device/segment_sum_impl.h"

namespace recis {
namespace {

struct NumberPositions {
  uint32_t* positions;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    positions[item] = static_cast<uint32_t>(item);
  }
};

// Where each segment's positions begin, and after the last one n.
struct FindOffsets {
  const uint32_t* sorted_numbers;  // (n)
  int64_t n;
  const uint32_t* count;  // how many segments, on the device; null: all
  uint32_t* offsets;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    if (item > 0 && !IsThere(count, item - 1)) return;
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (sorted_numbers[middle] < item) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    offsets[item] = static_cast<uint32_t>(low);
  }
};

// Runs of the segments that have more positions than one: a hot id may stand in a tenth of a
// batch's. Cut the sorted positions into blocks as long as a run. At most one run begins in each
// whose segment began before, and at most one that is its segment's first: each has a place of its
// own.
struct Runs {
  const uint32_t* sorted_numbers;
  const uint32_t* offsets;
  int64_t n;

  static constexpr int64_t kRun = SegmentSumArgs::kRun;

  struct Run {
    uint32_t number;
    int64_t begin, end;  // sorted positions; none, if they are equal
  };
  RECIS_DEVICE Run At(int64_t place) const {
    const int64_t block = place / 2 * kRun, block_end = block + kRun < n ? block + kRun : n;
    if (block >= n) return {0, 0, 0};
    const bool is_first = place % 2 != 0;
    const uint32_t number = sorted_numbers[is_first ? block_end - 1 : block];
    const int64_t begin = offsets[number], end = offsets[number + 1];
    if (end - begin <= kRun || is_first != (begin >= block)) return {number, 0, 0};
    const int64_t run = is_first ? begin : block + (kRun - (block - begin) % kRun) % kRun;
    if (run >= end) return {number, 0, 0};
    return {number, run, run + kRun < end ? run + kRun : end};
  }
  // Of the run that begins there.
  RECIS_DEVICE static int64_t PlaceOf(int64_t begin, bool is_first) {
    return begin / kRun * 2 + (is_first ? 1 : 0);
  }
};

template <int kColumns>
struct Width {
  static constexpr int value = kColumns;
};

// Calls f(column, Width()) for the columns of a lane: kColumns side by side, or one by one at the
// end.
template <int kColumns, class F>
RECIS_DEVICE void ForColumns(int64_t lane, int64_t dim, F f) {
  const int64_t begin = lane * kColumns;
  if (begin + kColumns <= dim) return f(begin, Width<kColumns>());
  for (int64_t column = begin; column < dim; ++column) {
    f(column, Width<1>());
  }
}

// The sum of a run of sorted positions.
template <int kWidth, bool kWeighted, class T, class S>
RECIS_DEVICE Columns<S, kWidth> SumPositions(const SegmentSumArgs& args, int64_t column,
                                             int64_t begin, int64_t count) {
  const S* weights = kWeighted ? static_cast<const S*>(args.weights) + begin : nullptr;
  return SumRun<kWidth, kWeighted>(static_cast<const T*>(args.values) + column, args.dim,
                                   args.positions + begin, weights, count, 1);
}

// An item is a place of a run and a group of columns, kColumns a lane.
template <class T, class S, int kColumns, bool kWeighted>
struct SumRuns {
  SegmentSumArgs args;
  Runs runs;
  S* sums;
  int64_t groups;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const int64_t place = item / groups;
    const Runs::Run run = runs.At(place);
    if (run.begin == run.end || TargetOf(args, run.number) == SegmentSumArgs::kSkip) return;
    tile.Each([&](int lane) {
      const int64_t first = item % groups * Tile::kLanes + lane;
      ForColumns<kColumns>(first, args.dim, [&](int64_t column, auto width) {
        Put(SumPositions<decltype(width)::value, kWeighted, T, S>(args, column, run.begin,
                                                                  run.end - run.begin),
            true, S{1}, sums + place * args.dim + column, 1);
      });
    });
  }
};

// An item is a segment and a group of columns, kColumns a lane. REQUIRES: runs are summed.
template <class T, class S, int kColumns, bool kWeighted>
struct SumSegment {
  SegmentSumArgs args;
  const uint32_t* count;
  const S* run_sums;
  int64_t groups;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const int64_t segment = item / groups;
    if (!IsThere(count, segment)) return;
    const int64_t target = TargetOf(args, segment);
    if (target == SegmentSumArgs::kSkip) return;
    const uint32_t first = args.offsets[segment];
    const int64_t positions = int64_t{args.offsets[segment + 1]} - first;
    // Nothing is zeros, whatever it is divided by.
    const S divisor =
        positions == 0 ? S{1} : static_cast<S>(args.mean ? args.divisor * positions : args.divisor);
    tile.Each([&](int lane) {
      const int64_t at = item % groups * Tile::kLanes + lane;
      ForColumns<kColumns>(at, args.dim, [&](int64_t column, auto width) {
        Put(Total<decltype(width)::value>(column, first, positions), IsFresh(args, segment),
            divisor, static_cast<S*>(args.sums) + target * args.dim + column, 1);
      });
    });
  }

  template <int kWidth>
  RECIS_DEVICE Columns<S, kWidth> Total(int64_t column, uint32_t first, int64_t positions) const {
    if (positions == 0) return {};
    if (positions <= Runs::kRun) {
      return SumPositions<kWidth, kWeighted, T, S>(args, column, first, positions);
    }
    const S* run = run_sums + Runs::PlaceOf(first, true) * args.dim + column;
    Columns<S, kWidth> total;
    for (int v = 0; v < kWidth; ++v) total.at[v] = run[v];
    for (int64_t begin = first + Runs::kRun; begin < first + positions; begin += Runs::kRun) {
      run = run_sums + Runs::PlaceOf(begin, false) * args.dim + column;
      for (int v = 0; v < kWidth; ++v) total.at[v] = total.at[v] + run[v];
    }
    return total;
  }
};

// ---- gradients of bags ----------------------------------------------------------------

// The bag of each sorted position, and what that bag's gradient is multiplied by there.
template <class S>
struct PlaceBags {
  BagsArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    const uint32_t position = args.sorted_positions[item], bag = args.bags[position];
    args.places[item] = bag;
    if (args.scale == nullptr) return;
    const auto* weights = static_cast<const S*>(args.weights);
    static_cast<S*>(args.scale)[item] =
        weights != nullptr ? weights[position]
                           : S{1} / static_cast<S>(args.offsets[bag + 1] - args.offsets[bag]);
  }
};

}  // namespace
}  // namespace recis
