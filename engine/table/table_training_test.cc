// Gradients, optimizer steps and slots of a table.
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/testing.h"
#include "table/table.h"
#include "table/table_testing.h"

namespace recis {
namespace {

using testing::Accumulate, testing::AccumulateRows, testing::AddSlot, testing::Evict,
    testing::Found, testing::GradientOf, testing::Ids, testing::Insert, testing::Lookup,
    testing::MakeTable, testing::Read, testing::RowsOf, testing::Values, testing::WholeSlot;
using Sums = std::map<int64_t, Values>;

// Two floats a row, zeros in a new one.
std::shared_ptr<Table> Pairs() { return MakeTable({2}); }

std::byte* BytesOf(Values& values) { return reinterpret_cast<std::byte*>(values.data()); }

// ---- gradient -----------------------------------------------------------------------

TEST(TheGradientOfALookupIsSummedByRow) {
  const auto table = Pairs();
  const Found found = Lookup(*table, {10, 11, 10});  // rows 1, 0
  EXPECT(Accumulate(*table, *found.batch, {1, 2, 3, 4, 5, 6}).ok());
  EXPECT_EQ(GradientOf(*table), (Sums{{0, {3, 4}}, {1, {6, 8}}}));
  EXPECT(Accumulate(*table, *found.batch, {1, 2, 3, 4, 5, 6}, /*mean=*/true, 2).ok());
  EXPECT_EQ(GradientOf(*table), (Sums{{0, {4.5, 6}}, {1, {7.5, 10}}}));
  EXPECT_EQ(GradientOf(*table, 0.5), (Sums{{0, {9, 12}}, {1, {15, 20}}}));
  table->ClearGradient();
  EXPECT_EQ(GradientOf(*table), Sums{});
}

TEST(RefusedIdsTakeNoGradient) {
  const auto table = Pairs();
  AdmitNone none;
  Lookup(*table, {1});
  const Found found = Lookup(*table, {2, 1}, &none);
  EXPECT(Accumulate(*table, *found.batch, {1, 2, 3, 4}).ok());
  EXPECT_EQ(GradientOf(*table), (Sums{{0, {3, 4}}}));
}

TEST(ARowThatIsAnotherIdsByNowTakesNothing) {
  const auto table = Pairs();
  const Found found = Lookup(*table, {1, 2});  // rows 1, 0
  Evict(*table, {1});
  EXPECT(Accumulate(*table, *found.batch, {1, 2, 3, 4}).ok());
  EXPECT_EQ(GradientOf(*table), (Sums{{0, {3, 4}}}));
  Lookup(*table, {9});  // in the row that was 1's
  EXPECT_EQ(RowsOf(*table, {9}), (Ids{1}));
  EXPECT(Accumulate(*table, *found.batch, {1, 2, 3, 4}).ok());
  EXPECT_EQ(GradientOf(*table), (Sums{{0, {6, 8}}}));
  EXPECT(table->Clear().ok());
  Lookup(*table, {7});
  EXPECT(Accumulate(*table, *found.batch, {1, 2, 3, 4}).ok());
  EXPECT_EQ(GradientOf(*table), Sums{});
}

TEST(EvictionDropsThePendingGradient) {
  const auto table = Pairs();
  EXPECT(Accumulate(*table, *Lookup(*table, {1, 2}).batch, {1, 2, 3, 4}).ok());
  Evict(*table, {1});
  EXPECT_EQ(GradientOf(*table), (Sums{{0, {3, 4}}}));
  const Found again = Lookup(*table, {1});
  EXPECT(Accumulate(*table, *again.batch, {5, 6}).ok());
  EXPECT_EQ(GradientOf(*table), (Sums{{0, {3, 4}}, {1, {5, 6}}}));
}

TEST(AnIdThatIsBackTakesItsGradientInWhicheverRowItHas) {
  const auto table = Pairs();
  const Found before = Lookup(*table, {1, 2, 3});
  Evict(*table, {1, 2, 3});
  Lookup(*table, {3});
  Lookup(*table, {1});
  EXPECT(Accumulate(*table, *before.batch, {1, 2, 3, 4, 5, 6}).ok());
  const Ids rows = RowsOf(*table, {1, 3});
  EXPECT_EQ(GradientOf(*table), (Sums{{rows[0], {1, 2}}, {rows[1], {5, 6}}}));
}

TEST(GradientsOfRowsAreSummedAndABadRowChangesNothing) {
  const auto table = Pairs();
  Lookup(*table, {1, 2, 3});
  Evict(*table, {2});
  EXPECT(AccumulateRows(*table, {2, 0, 2}, {1, 2, 3, 4, 5, 6}).ok());
  const Sums before = {{0, {3, 4}}, {2, {6, 8}}};
  EXPECT_EQ(GradientOf(*table), before);
  for (const int64_t bad : {int64_t{1}, int64_t{3}, int64_t{-1}, int64_t{1} << 32}) {
    const Status status = AccumulateRows(*table, {0, bad}, {1, 1, 1, 1});
    EXPECT(status.code() == Code::kOutOfRange);
    EXPECT_EQ(status.message(), "table 't': row " + std::to_string(bad) +
                                    " (position 1) is not in use; the table has 2 rows, "
                                    "ids_map() lists them");
    EXPECT_EQ(GradientOf(*table), before);
  }
}

TEST(ReadGradientKeepsToTheRoomItIsGiven) {
  const auto table = Pairs();
  EXPECT(Accumulate(*table, *Lookup(*table, {1, 2}).batch, {1, 2, 3, 4}).ok());
  int64_t row = -1;
  Values value(2);
  EXPECT_EQ(table->ReadGradient(1, 1, &row, BytesOf(value)), 1);
  EXPECT_EQ(row, 0);
  EXPECT_EQ(value, (Values{3, 4}));
}

// ---- optimizer ----------------------------------------------------------------------

TEST(AStepMovesTheRowsWithAGradientAlone) {
  const auto table = Pairs();
  Insert(*table, {1, 2, 3}, {1, 2, 3, 4, 5, 6});  // rows 2, 1, 0
  const int velocity = AddSlot(*table, "velocity", {2}, 0.5);
  EXPECT(AccumulateRows(*table, {2, 0}, {8, 16, 24, 32}).ok());
  const RuleParams params{.rule = Rule::kSgd, .step_size = 0.25, .momentum = 0.5};
  EXPECT(table->Step(params, {velocity}).ok());
  EXPECT_EQ(WholeSlot(*table, velocity), (Values{24.25, 32.25, .5, .5, 8.25, 16.25, 0, 0, 0, 0}));
  EXPECT_EQ(Read(*table, {1, 2, 3}),
            (Values{1 - 8.25f / 4, 2 - 16.25f / 4, 3, 4, 5 - 24.25f / 4, 6 - 32.25f / 4}));
  EXPECT_EQ(table->GradientRows(), 2);
}

TEST(AStepReachesEveryRowOfALargeGradient) {
  const auto table = Pairs();
  Ids ids(5000);
  for (int64_t i = 0; i < 5000; ++i) ids[i] = i;
  const Found found = Lookup(*table, ids);
  Values values(10000), expected(10000);
  for (int i = 0; i < 10000; ++i) expected[i] = -(values[i] = static_cast<float>(i));
  EXPECT(Accumulate(*table, *found.batch, values).ok());
  EXPECT(table->Step({.rule = Rule::kSgd, .step_size = 1}, {}).ok());
  EXPECT(Read(*table, ids) == expected);
}

TEST(AStepThatCannotBeChangesNothing) {
  const auto table = Pairs();
  Insert(*table, {1}, {1, 2});
  EXPECT(AccumulateRows(*table, {0}, {1, 1}).ok());
  const int wide = AddSlot(*table, "wide", {2}), narrow = AddSlot(*table, "narrow", {1});
  Slot whole;
  whole.name = "count";
  whole.dtype = DType::kInt32;
  whole.shape = {2};
  const int count = table->AddSlot(whole).value();
  const RuleParams adagrad{.rule = Rule::kAdagrad, .step_size = 1};
  const RuleParams row_wise{.rule = Rule::kRowWiseAdagrad, .step_size = 1};
  const RuleParams adam{.rule = Rule::kAdam, .step_size = 1};
  EXPECT(table->Step(adagrad, {narrow}).code() == Code::kInvalidArgument);
  EXPECT(table->Step(adagrad, {count}).code() == Code::kInvalidArgument);
  EXPECT(table->Step(adagrad, {}).code() == Code::kInvalidArgument);
  EXPECT(table->Step(adagrad, {9}).code() == Code::kOutOfRange);
  EXPECT(table->Step(row_wise, {wide}).code() == Code::kInvalidArgument);
  EXPECT(table->Step(adam, {wide}).code() == Code::kInvalidArgument);
  EXPECT_EQ(Read(*table, {1}), (Values{1, 2}));
  EXPECT(table->Step(row_wise, {narrow}).ok());
}

TEST(ATableOfIntegersCannotBeTrained) {
  const auto table = MakeTable({1}, {}, 5, DType::kInt64);
  EXPECT_EQ(table->Step({}, {}).message(),
            "table 't' holds int64: only floating-point tables can be trained");
}

// ---- slots --------------------------------------------------------------------------

TEST(ANewSlotKeepsEveryRecordAndFillsLiveRowsAlone) {
  constexpr int64_t kRows = 40000, kDim = 60;  // several slabs
  for (const int64_t block_rows : {1, 5, 1024}) {
    const auto table = MakeTable({kDim}, {}, block_rows);
    Ids ids(kRows);
    Values values(kRows * kDim);
    for (int64_t i = 0; i < kRows; ++i) ids[i] = i;
    for (int64_t i = 0; i < kRows; ++i) values[kDim * i] = static_cast<float>(i);
    Insert(*table, ids, values);
    const Ids evicted = {17, kRows - 1};
    const Ids free_rows = RowsOf(*table, evicted);
    Evict(*table, evicted);
    AddSlot(*table, "one", {1}, 7);
    const int slot = AddSlot(*table, "three", {3}, 0.25);
    for (const int64_t id : evicted) values[kDim * id] = 0;
    EXPECT(Read(*table, ids) == values, block_rows);
    Values one(kRows, 7), three(kRows * 3, 0.25);
    for (const int64_t row : free_rows) {
      one[row] = 0;
      std::fill_n(&three[3 * row], 3, 0);
      // Free rows are zeros in memory too: a block shows them.
      const BlockView block = table->View(slot, row / block_rows).value();
      const std::byte* place = block.data + row % block_rows * block.row_stride_bytes;
      EXPECT_EQ(*reinterpret_cast<const float*>(place), 0.0f, block_rows);
    }
    one.resize(table->Capacity());
    three.resize(table->Capacity() * 3);
    EXPECT(WholeSlot(*table, slot - 1) == one, block_rows);
    EXPECT(WholeSlot(*table, slot) == three, block_rows);
  }
}

TEST(AnEqualSlotIsFoundAndADifferentOneRefused) {
  const auto table = Pairs();
  const int slot = AddSlot(*table, "sum", {2}, 1);
  EXPECT_EQ(AddSlot(*table, "sum", {2}, 1), slot);
  Slot other;
  other.name = "sum";
  other.shape = {3};
  const Status status = table->AddSlot(other).status();
  EXPECT(status.code() == Code::kInvalidArgument);
  EXPECT(status.message().starts_with("table 't': slot 'sum' exists as"), status.message());
  EXPECT_EQ(table->Slots().size(), 2u);
}

TEST(ASlotThereIsNoMemoryForChangesNothing) {
  const auto table = MakeTable({2}, {}, 1 << 20);
  Insert(*table, {1, 2}, {1, 2, 3, 4});
  Slot huge;
  huge.name = "huge";
  huge.dtype = DType::kInt8;
  huge.shape = {1 << 29};
  EXPECT(table->AddSlot(huge).status().code() == Code::kOutOfMemory);
  EXPECT_EQ(table->Slots().size(), 1u);
  EXPECT_EQ(Lookup(*table, {1, 2, 3}).values, (Values{1, 2, 3, 4, 0, 0}));
}

TEST(SlotsAreReadAndWrittenByRow) {
  const auto table = Pairs();
  Lookup(*table, {1, 2, 3});
  Values values = {1, 2, 3, 4, 5, 6}, read(4);
  Ids rows = {2, 0, 2};
  EXPECT(table->WriteSlot(0, rows.data(), 3, BytesOf(values)).ok());
  rows = {0, 2};
  EXPECT(table->ReadSlot(0, rows.data(), 2, BytesOf(read)).ok());
  EXPECT_EQ(read, (Values{3, 4, 5, 6}));  // of the repeated row the last
  rows = {0, 3};
  EXPECT(table->WriteSlot(0, rows.data(), 2, BytesOf(values)).code() == Code::kOutOfRange);
  EXPECT(table->ReadSlot(0, rows.data(), 2, BytesOf(read)).code() == Code::kOutOfRange);
  EXPECT(table->WriteSlot(1, rows.data(), 1, BytesOf(values)).code() == Code::kOutOfRange);
  EXPECT(table->ReadSlot(-1, rows.data(), 1, BytesOf(read)).code() == Code::kOutOfRange);
  EXPECT(table->ReadWholeSlot(1, 0, nullptr).code() == Code::kOutOfRange);
  EXPECT_EQ(read, (Values{3, 4, 5, 6}));
  EXPECT_EQ(WholeSlot(*table), (Values{3, 4, 0, 0, 5, 6, 0, 0, 0, 0}));
}

TEST(WhatIsAddedToACounterIsSummed) {
  const auto table = Pairs();
  Lookup(*table, {1, 2, 3});
  Slot counter;
  counter.name = "count";
  counter.dtype = DType::kInt64;
  counter.shape = {2};
  counter.initial = 5;
  const int slot = table->AddSlot(counter).value();
  const Ids rows = {2, 0, 2}, values = {1, 2, 3, 4, INT64_MAX, -9}, gone = {0, 3};
  EXPECT(table->AddToSlot(slot, rows.data(), 3, values.data()).ok());
  EXPECT(table->AddToSlot(slot, gone.data(), 2, values.data()).code() == Code::kOutOfRange);
  EXPECT(table->AddToSlot(0, rows.data(), 3, values.data()).code() == Code::kInvalidArgument);
  EXPECT(table->AddToSlot(2, rows.data(), 3, values.data()).code() == Code::kOutOfRange);
  Ids sums(6);
  const Ids all = {0, 1, 2};
  EXPECT(table->ReadSlot(slot, all.data(), 3, reinterpret_cast<std::byte*>(sums.data())).ok());
  EXPECT_EQ(sums, (Ids{8, 9, 5, 5, INT64_MIN + 5, -2}));
}

TEST(ABlockIsAViewThatOutlivesClear) {
  const auto table = Pairs();
  Lookup(*table, {1, 2, 3, 4, 5, 6});
  const int slot = AddSlot(*table, "sum", {1}, 2);
  Result<BlockView> block = table->View(slot, 1);  // rows 5 to 9
  auto* sum = reinterpret_cast<float*>(block.value().data);
  EXPECT_EQ(sum[0], 2.0f);
  sum[0] = 3;
  EXPECT_EQ(WholeSlot(*table, slot), (Values{2, 2, 2, 2, 2, 3, 0, 0, 0, 0}));
  EXPECT(table->View(slot, 2).status().code() == Code::kOutOfRange);
  EXPECT(table->View(slot, -1).status().code() == Code::kOutOfRange);
  EXPECT(table->View(9, 0).status().code() == Code::kOutOfRange);
  EXPECT(table->Clear().ok());
  EXPECT_EQ(sum[0], 3.0f);
  EXPECT(table->View(slot, 0).status().code() == Code::kOutOfRange);
}

}  // namespace
}  // namespace recis
