// The pending gradient of a table on a device, and optimizer steps. See device_kernels.h.
//
// Positions are sorted by the number of their id, and the sort keeps the order of equal ones: so
// each sum is taken in the order of positions, as on the CPU.
#pragma once

#include "device/device_rows_impl.h"
#include "device/segment_sum_impl.h"
#include "device/update_impl.h"

namespace recis {
namespace {

// ---- gathering it ---------------------------------------------------------------------

RECIS_DEVICE inline bool TakesGradient(const AccumulateArgs& args, int64_t item) {
  return args.rows[item] != kNoRow && args.found[item] != kNoRow;
}

struct MarkNewEntries {
  DeviceTableView table;
  AccumulateArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    args.ranks[item] = item < args.n && IsThere(args.count, item) && TakesGradient(args, item) &&
                               EntryOf(table, args.rows[item]).gradient == 0
                           ? 1
                           : 0;
  }
};

// REQUIRES: ranks are summed.
struct TakeTargets {
  DeviceTableView table;
  AccumulateArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    if (!IsThere(args.count, item)) return;
    args.fresh[item] = IsRanked(args.ranks, item);
    args.targets[item] = SegmentSumArgs::kSkip;
    if (!TakesGradient(args, item)) return;
    const Row row = args.rows[item];
    uint32_t& gradient = EntryOf(table, row).gradient;
    if (args.fresh[item]) {
      const auto entry = static_cast<uint32_t>(table.counts->gradient_entries) + args.ranks[item];
      table.gradient_rows[entry] = row;
      gradient = entry + 1;
    }
    args.targets[item] = gradient - 1;
  }
};

struct CountEntries {
  DeviceTableView table;
  AccumulateArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t) const {
    table.counts->gradient_entries += args.ranks[args.n];
  }
};

struct NumberPositions {
  uint32_t* positions;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    positions[item] = static_cast<uint32_t>(item);
  }
};

// Where each number's positions begin. Every number occurs.
struct FindOffsets {
  AccumulateArgs args;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    const uint32_t* numbers = args.sorted_numbers;
    if (item == args.n) {
      args.offsets[numbers[item - 1] + 1] = static_cast<uint32_t>(item);
    } else if (item == 0 || numbers[item] != numbers[item - 1]) {
      args.offsets[numbers[item]] = static_cast<uint32_t>(item);
    }
  }
};

// Runs of the ids that have more positions than one: such an id may stand in a tenth of a batch's
// positions. Cut the sorted positions into blocks as long as a run. At most one run begins in each
// whose id began before, and at most one that is its id's first: each has a place of its own.
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

// An item is a place of a run and a group of columns, kColumns a lane.
template <class T, class S, int kColumns>
struct SumRuns {
  SegmentSumArgs args;
  Runs runs;
  S* sums;
  int64_t groups;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const int64_t place = item / groups;
    const Runs::Run run = runs.At(place);
    if (run.begin == run.end || args.targets[run.number] == SegmentSumArgs::kSkip) return;
    const S* const no_weights = nullptr;
    tile.Each([&](int lane) {
      const int64_t first = item % groups * Tile::kLanes + lane;
      ForColumns<kColumns>(first, args.dim, [&](int64_t column, auto width) {
        Put(SumRun<decltype(width)::value, false>(static_cast<const T*>(args.values) + column,
                                                  args.dim, args.positions + run.begin, no_weights,
                                                  run.end - run.begin, 1),
            true, S{1}, sums + place * args.dim + column, 1);
      });
    });
  }
};

// An item is an id and a group of columns, kColumns a lane. REQUIRES: runs are summed.
template <class T, class S, int kColumns>
struct SumOccurrences {
  SegmentSumArgs args;
  const uint32_t* count;
  const S* run_sums;
  int64_t groups;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const int64_t number = item / groups;
    if (!IsThere(count, number) || args.targets[number] == SegmentSumArgs::kSkip) return;
    const uint32_t first = args.offsets[number];
    const int64_t occurrences = int64_t{args.offsets[number + 1]} - first;
    const S divisor = static_cast<S>(args.mean ? args.divisor * occurrences : args.divisor);
    tile.Each([&](int lane) {
      const int64_t at = item % groups * Tile::kLanes + lane;
      ForColumns<kColumns>(at, args.dim, [&](int64_t column, auto width) {
        Put(Total<decltype(width)::value>(column, first, occurrences), args.fresh[number], divisor,
            static_cast<S*>(args.sums) + args.targets[number] * args.dim + column, 1);
      });
    });
  }

  template <int kWidth>
  RECIS_DEVICE Columns<S, kWidth> Total(int64_t column, uint32_t first, int64_t occurrences) const {
    if (occurrences <= Runs::kRun) {
      const S* const no_weights = nullptr;
      return SumRun<kWidth, false>(static_cast<const T*>(args.values) + column, args.dim,
                                   args.positions + first, no_weights, occurrences, 1);
    }
    const S* run = run_sums + Runs::PlaceOf(first, true) * args.dim + column;
    Columns<S, kWidth> total;
    for (int v = 0; v < kWidth; ++v) total.at[v] = run[v];
    for (int64_t begin = first + Runs::kRun; begin < first + occurrences; begin += Runs::kRun) {
      run = run_sums + Runs::PlaceOf(begin, false) * args.dim + column;
      for (int v = 0; v < kWidth; ++v) total.at[v] = total.at[v] + run[v];
    }
    return total;
  }
};

// Whether an entry is of a row.
RECIS_DEVICE inline bool HasRow(const DeviceTableView& table, int64_t item) {
  return item < static_cast<int64_t>(table.counts->gradient_entries) &&
         table.gradient_rows[item] != kNoRow;
}

// ---- steps ----------------------------------------------------------------------------

template <class W, class S>
struct StepOperands {
  DeviceTableView table;
  StepArgs args;
  RuleParams params;
  Scalars<S> scalars;

  RECIS_DEVICE Operands<W, S> At(int64_t item) const {
    return {args.places, recis::At(table.records, table.gradient_rows[item]),
            static_cast<const S*>(table.gradient_sums) + item * args.dim};
  }
};

template <class Rule, class W, class S>
struct StepRows {
  StepOperands<W, S> operands;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    if (!HasRow(operands.table, item)) return;
    const Operands<W, S> row = operands.At(item);
    const Scalars<S>& p = operands.scalars;
    tile.Each([&](int lane) {
      for (int64_t at = lane; at < operands.args.dim; at += Tile::kLanes) {
        Rule::template Apply<W, S>(row, at, 1, p, operands.params);
      }
    });
  }
};

template <class W, class S>
struct StepRows<RowWiseAdagradRule, W, S> {
  StepOperands<W, S> operands;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    static_assert(Tile::kLanes == kStrands<S>);
    if (!HasRow(operands.table, item)) return;
    const Operands<W, S> row = operands.At(item);
    const Scalars<S>& p = operands.scalars;
    const int64_t dim = operands.args.dim;
    const S squares = tile.Fold([&](int lane) {
      S strand{};
      for (int64_t at = lane; at < dim; at += Tile::kLanes) {
        strand = strand + RowWiseAdagradRule::Squares<W, S>(row, at, 1, p);
      }
      return strand;
    });
    const S sum = tile.From(
        0, [&] { return *row.state[0] = RowWiseAdagradRule::Sum<W, S>(row, squares, dim); });
    tile.Each([&](int lane) {
      for (int64_t at = lane; at < dim; at += Tile::kLanes) {
        RowWiseAdagradRule::Apply<W, S>(row, at, 1, p, sum);
      }
    });
  }
};

struct MarkSteppedRow {
  DeviceTableView table;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    if (HasRow(table, item)) Mark(table, table.gradient_rows[item]);
  }
};

// ---- reading and clearing it ----------------------------------------------------------

struct MarkEntries {
  DeviceTableView table;
  int64_t n;
  uint32_t* ranks;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    ranks[item] = item < n && HasRow(table, item) ? 1 : 0;
  }
};

// The live entries and their rows; after them kNoRow.
struct TakeEntries {
  DeviceTableView table;
  int64_t n;
  const uint32_t* ranks;
  Row* rows;
  uint32_t* entries;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    if (item >= ranks[n]) rows[item] = kNoRow;
    if (!IsRanked(ranks, item)) return;
    rows[ranks[item]] = table.gradient_rows[item];
    entries[ranks[item]] = static_cast<uint32_t>(item);
  }
};

template <class S>
struct DivideSums {
  DeviceTableView table;
  const uint32_t* entries;
  int64_t dim;
  S divisor;
  S* values;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile& tile, int64_t item) const {
    const S* sums = static_cast<const S*>(table.gradient_sums) + entries[item] * dim;
    tile.Each([&](int lane) {
      for (int64_t at = lane; at < dim; at += Tile::kLanes) {
        values[item * dim + at] = sums[at] / divisor;
      }
    });
  }
};

struct DropEntry {
  DeviceTableView table;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t item) const {
    if (HasRow(table, item)) EntryOf(table, table.gradient_rows[item]).gradient = 0;
  }
};

struct DropEntries {
  DeviceTableView table;

  template <class Tile>
  RECIS_DEVICE void operator()(const Tile&, int64_t) const {
    table.counts->gradient_entries = 0;
  }
};

}  // namespace
}  // namespace recis
