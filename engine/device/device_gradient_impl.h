// The pending gradient of a table on a device, and optimizer steps. See device_kernels.h. How it is
// summed is in device_sums_impl.h.
#pragma once

#include "device/device_rows_impl.h"
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
