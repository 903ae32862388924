// DeviceKernels over an executor (see executor_host.h). One file for each executor includes this,
// with RECIS_ONE_LANE defined: the lanes of a tile are all there is of vectors.
#pragma once

#include <utility>

#include "device/device_gradient_impl.h"
#include "device/device_kernels.h"
#include "device/device_numbering_impl.h"
#include "device/device_rows_impl.h"
#include "device/device_sums_impl.h"

namespace recis {
namespace {

constexpr int kTile = IndexBucket::kPlaces;

template <class Executor>
class KernelsOn final : public DeviceKernels {
 public:
  explicit KernelsOn(Executor executor) : executor_(std::move(executor)) {}

  Status Number(const NumberingArgs& args, Stream stream) override {
    const uint32_t mask = NumberingArgs::PlacesFor(args.n) - 1;
    executor_.template Run<1>(args.n, ClaimPlaces{args, mask}, stream);
    executor_.template Run<1>(args.n + 1, MarkFirst{args}, stream);
    executor_.Scan(args.numbers, args.n + 1, stream);
    executor_.template Run<1>(args.n, TakeNumbers{args}, stream);
    return executor_.status();
  }

  Status Find(const DeviceTableView& table, const FindArgs& args, Stream stream) override {
    executor_.template Run<kTile>(args.n, FindRows{table, args}, stream);
    return executor_.status();
  }

  Status Admit(const DeviceTableView& table, const AdmitArgs& args, Stream stream) override {
    executor_.template Run<1>(args.n + 1, MarkAdmitted{args}, stream);
    executor_.Scan(args.ranks, args.n + 1, stream);
    executor_.template Run<kTile>(args.n, AssignRows{table, args}, stream);
    executor_.template Run<1>(1, CountAdmitted{table, args}, stream);
    executor_.template Run<kTile>(args.n, WriteNewRecords{table, args}, stream);
    if (args.draw != nullptr) {
      executor_.template Run<kTile>(args.n, DrawEmbeddings{table, args, *args.draw}, stream);
    }
    return executor_.status();
  }

  Status Evict(const DeviceTableView& table, const EvictArgs& args, Stream stream) override {
    executor_.template Run<1>(args.n + 1, MarkFound{args}, stream);
    executor_.Scan(args.ranks, args.n + 1, stream);
    executor_.template Run<kTile>(args.n, EvictRows{table, args}, stream);
    executor_.template Run<1>(1, CountEvicted{table, args}, stream);
    return executor_.status();
  }

  Status Rebuild(const DeviceTableView& table, int64_t end, Stream stream) override {
    executor_.template Run<kTile>(end, InsertLiveRow{table}, stream);
    executor_.template Run<1>(1, CountRebuilt{table}, stream);
    return executor_.status();
  }

  Status Read(const DeviceTableView& table, const int64_t* ids, int64_t n, size_t bytes,
              std::byte* out, Stream stream) override {
    executor_.template Run<kTile>(n, ReadRows{table, ids, bytes, out}, stream);
    return executor_.status();
  }

  Status CountHits(const DeviceTableView& table, const Row* rows, const uint32_t* inverse,
                   int64_t n, Stream stream) override {
    executor_.template Run<1>(n, CountRowHits{table, rows, inverse}, stream);
    return executor_.status();
  }

  Status Gather(const DeviceTableView& table, const GatherArgs& args, Stream stream) override {
    executor_.template Run<kTile>(args.n, GatherRows{table, args}, stream);
    return executor_.status();
  }

  Status Scatter(const DeviceTableView& table, const ScatterArgs& args, Stream stream) override {
    executor_.template Run<kTile>(args.n, ScatterRows{table, args}, stream);
    return executor_.status();
  }

  Status Last(const uint32_t* inverse, int64_t n, uint32_t* last, Stream stream) override {
    executor_.template Run<1>(n, FindLast{inverse, last}, stream);
    return executor_.status();
  }

  Status AddTo(const DeviceTableView& table, const Row* rows, int64_t n, size_t offset, int64_t dim,
               const int64_t* values, Stream stream) override {
    executor_.template Run<kTile>(n, AddToRows{table, rows, offset, dim, values}, stream);
    return executor_.status();
  }

  Status CheckRows(const DeviceTableView& table, const int64_t* rows, int64_t n, Row* out,
                   uint32_t* bad, Stream stream) override {
    executor_.template Run<1>(n, CheckRow{table, rows, out, bad}, stream);
    return executor_.status();
  }

  Status ListRows(const DeviceTableView& table, int64_t end, uint32_t* ranks, int64_t capacity,
                  int64_t* ids, int64_t* rows, Stream stream) override {
    executor_.template Run<1>(end + 1, MarkLive{table, end, ranks}, stream);
    executor_.Scan(ranks, end + 1, stream);
    executor_.template Run<1>(end, TakeLive{table, ranks, capacity, ids, rows}, stream);
    return executor_.status();
  }

  Status TellRows(const Row* rows, int64_t n, int64_t* wide, bool* there, Stream stream) override {
    executor_.template Run<1>(n, TellRow{rows, wide, there}, stream);
    return executor_.status();
  }

  Status LiveRows(const DeviceTableView& table, int64_t end, Row* rows, Stream stream) override {
    executor_.template Run<1>(end, RowIfLive{table, rows}, stream);
    return executor_.status();
  }

  Status MarkChanged(const DeviceTableView& table, const Row* rows, const uint32_t* count,
                     int64_t n, Stream stream) override {
    executor_.template Run<1>(n, MarkRow{table, rows, count}, stream);
    return executor_.status();
  }

  Status MarkStepped(const DeviceTableView& table, int64_t n, Stream stream) override {
    executor_.template Run<1>(n, MarkSteppedRow{table}, stream);
    return executor_.status();
  }

  Status ForgetChanges(const DeviceTableView& table, int64_t end, Stream stream) override {
    executor_.template Run<1>(end, ForgetChange{table}, stream);
    return executor_.status();
  }

  Status ChangeLayout(const DeviceTableView& table, const ChunkView& records,
                      const std::byte* new_record, size_t kept, int64_t end,
                      Stream stream) override {
    executor_.template Run<kTile>(
        end, WriteRecords{table, records, new_record, records.element_bytes}, stream);
    executor_.template Run<kTile>(end, WriteRecords{table, records, nullptr, kept}, stream);
    return executor_.status();
  }

  Status Accumulate(const DeviceTableView& table, const AccumulateArgs& args,
                    Stream stream) override {
    if (args.n == 0) return {};
    executor_.template Run<1>(args.n + 1, MarkNewEntries{table, args}, stream);
    executor_.Scan(args.ranks, args.n + 1, stream);
    executor_.template Run<1>(args.n, TakeTargets{table, args}, stream);
    executor_.template Run<1>(1, CountEntries{table, args}, stream);
    SortPositions(args.inverse, args.positions, args.sorted_numbers, args.sorted_positions,
                  args.n - 1, args.n, stream);
    executor_.template Run<1>(
        args.n + 1, FindOffsets{args.sorted_numbers, args.n, args.count, args.offsets}, stream);
    const SegmentSumArgs sums{args.values,           args.dtype,         args.dim,   args.offsets,
                              args.sorted_positions, args.targets,       args.fresh, args.mean,
                              args.divisor,          table.gradient_sums};
    return Sum({sums, args.sorted_numbers, args.n, args.n, args.count, args.run_sums}, stream);
  }

  Status Step(const DeviceTableView& table, const StepArgs& args, Stream stream) override {
    switch (args.dtype) {
      case DType::kFloat32:
        StepWith<float, float>(table, args, stream);
        break;
      case DType::kFloat64:
        StepWith<double, double>(table, args, stream);
        break;
      case DType::kFloat16:
        StepWith<Half, float>(table, args, stream);
        break;
      case DType::kBFloat16:
        StepWith<BFloat16, float>(table, args, stream);
        break;
      default:
        RECIS_CHECK(false);  // integer tables take no optimizer
    }
    return executor_.status();
  }

  Status SortGradient(const DeviceTableView& table, int64_t n, Row* rows, uint32_t* entries_in,
                      Row* sorted_rows, uint32_t* entries, uint32_t* ranks,
                      Stream stream) override {
    executor_.template Run<1>(n + 1, MarkEntries{table, n, ranks}, stream);
    executor_.Scan(ranks, n + 1, stream);
    executor_.template Run<1>(n, TakeEntries{table, n, ranks, rows, entries_in}, stream);
    executor_.Sort(rows, entries_in, sorted_rows, entries, 32, n, stream);
    return executor_.status();
  }

  Status ReadGradient(const DeviceTableView& table, const uint32_t* entries, int64_t n, int64_t dim,
                      DType accumulator, double divisor, std::byte* values,
                      Stream stream) override {
    if (accumulator == DType::kFloat64) {
      Divide<double>(table, entries, n, dim, divisor, values, stream);
    } else {
      Divide<float>(table, entries, n, dim, static_cast<float>(divisor), values, stream);
    }
    return executor_.status();
  }

  Status ClearGradient(const DeviceTableView& table, int64_t n, Stream stream) override {
    executor_.template Run<1>(n, DropEntry{table}, stream);
    executor_.template Run<1>(1, DropEntries{table}, stream);
    return executor_.status();
  }

  Status Sum(const SumArgs& args, Stream stream) override {
    switch (args.sums.dtype) {
      case DType::kFloat32:
        SumWith<float, float>(args, stream);
        break;
      case DType::kFloat64:
        SumWith<double, double>(args, stream);
        break;
      case DType::kFloat16:
        SumWith<Half, float>(args, stream);
        break;
      case DType::kBFloat16:
        SumWith<BFloat16, float>(args, stream);
        break;
      default:
        RECIS_CHECK(false);  // integer tables take no gradient, and have no sums
    }
    return executor_.status();
  }

  Status SortBags(const BagsArgs& args, Stream stream) override {
    SortPositions(args.inverse, args.positions, args.sorted_numbers, args.sorted_positions,
                  args.distinct, args.n, stream);
    executor_.template Run<1>(
        args.distinct + 1, FindOffsets{args.sorted_numbers, args.n, nullptr, args.starts}, stream);
    if (args.accumulator == DType::kFloat64) {
      executor_.template Run<1>(args.n, PlaceBags<double>{args}, stream);
    } else {
      executor_.template Run<1>(args.n, PlaceBags<float>{args}, stream);
    }
    return executor_.status();
  }

 private:
  static int BitsOf(int64_t most) {
    int bits = 1;
    while (most >> bits != 0) ++bits;
    return bits;
  }

  // Keys are at most `most`.
  void SortPositions(const uint32_t* keys, uint32_t* positions, uint32_t* sorted_keys,
                     uint32_t* sorted_positions, int64_t most, int64_t n, Stream stream) {
    executor_.template Run<1>(n, NumberPositions{positions}, stream);
    executor_.Sort(keys, positions, sorted_keys, sorted_positions, BitsOf(most), n, stream);
  }

  template <class T, class S>
  void SumWith(const SumArgs& args, Stream stream) {
    if (args.sums.weights == nullptr) return SumWeighted<T, S, false>(args, stream);
    SumWeighted<T, S, true>(args, stream);
  }
  template <class T, class S, bool kWeighted>
  void SumWeighted(const SumArgs& args, Stream stream) {
    // Each lane reads what leads to its columns, so it has several where there are enough for all.
    constexpr int kColumns = 16 / sizeof(S);
    if (args.sums.dim < kColumns * kStrands<S>) return SumBy<T, S, 1, kWeighted>(args, stream);
    SumBy<T, S, kColumns, kWeighted>(args, stream);
  }
  template <class T, class S, int kColumns, bool kWeighted>
  void SumBy(const SumArgs& args, Stream stream) {
    constexpr int64_t kGroup = kColumns * kStrands<S>;
    const int64_t groups = (args.sums.dim + kGroup - 1) / kGroup;
    auto* const run_sums = static_cast<S*>(args.run_sums);
    if (const int64_t places = SumArgs::RunsFor(args.n); places > 0) {
      const Runs runs{args.sorted_numbers, args.sums.offsets, args.n};
      executor_.template Run<kStrands<S>>(
          places * groups, SumRuns<T, S, kColumns, kWeighted>{args.sums, runs, run_sums, groups},
          stream);
    }
    executor_.template Run<kStrands<S>>(
        args.segments * groups,
        SumSegment<T, S, kColumns, kWeighted>{args.sums, args.count, run_sums, groups}, stream);
  }

  template <class W, class S>
  void StepWith(const DeviceTableView& table, const StepArgs& args, Stream stream) {
    switch (args.params->rule) {
      case Rule::kSgd:
        return StepBy<SgdRule, W, S>(table, args, stream);
      case Rule::kAdagrad:
        return StepBy<AdagradRule, W, S>(table, args, stream);
      case Rule::kRowWiseAdagrad:
        return StepBy<RowWiseAdagradRule, W, S>(table, args, stream);
      case Rule::kAdam:
        return StepBy<AdamRule, W, S>(table, args, stream);
    }
  }
  template <class OneRule, class W, class S>
  void StepBy(const DeviceTableView& table, const StepArgs& args, Stream stream) {
    executor_.template Run<kStrands<S>>(
        args.n, StepRows<OneRule, W, S>{{table, args, *args.params, Scalars<S>(*args.params)}},
        stream);
  }

  template <class S>
  void Divide(const DeviceTableView& table, const uint32_t* entries, int64_t n, int64_t dim,
              S divisor, std::byte* values, Stream stream) {
    executor_.template Run<kTile>(
        n, DivideSums<S>{table, entries, dim, divisor, reinterpret_cast<S*>(values)}, stream);
  }

  Executor executor_;
};

}  // namespace
}  // namespace recis
