// Ids, rows and embeddings of a table; table_training_test.cc has gradients and slots.
#include "table/table.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/testing.h"
#include "base/thread_pool.h"
#include "device/kernels.h"
#include "table/table_testing.h"

namespace recis {
namespace {

using testing::Evict, testing::Found, testing::Ids, testing::Insert, testing::Lookup,
    testing::MakeTable, testing::Read, testing::RowsOf, testing::Values, testing::WholeSlot;

constexpr DrawArgs kUniform{Distribution::kUniform, -1, 2, 0, 1, 42};

// One float a row, 0.5 in a new one.
std::shared_ptr<Table> Halves() { return MakeTable({1}, {.shift = 0.5}); }

// Admits what it is told to, and keeps what it was asked.
struct Scripted : AdmissionPolicy {
  explicit Scripted(std::vector<bool> admits) : answers(std::move(admits)) {}
  void Admit(const int64_t* ids, const uint32_t* counts, int64_t n, bool* admit) override {
    asked.assign(ids, ids + n);
    asked_counts.assign(counts, counts + n);
    std::copy_n(answers.begin(), n, admit);
  }
  std::vector<bool> answers;
  Ids asked, asked_counts;
};

TEST(OptionsThatCannotBeAreRefused) {
  const auto refuses = [](std::vector<int64_t> shape, int64_t block_rows) {
    TableOptions options;
    options.shape = std::move(shape);
    options.block_rows = block_rows;
    return Table::Make(options).status().code() == Code::kInvalidArgument;
  };
  for (const int64_t block_rows : {int64_t{0}, int64_t{-1}, int64_t{1} << 32}) {
    EXPECT(refuses({4}, block_rows), block_rows);
  }
  EXPECT(refuses({0}, 5));
  EXPECT(refuses({1 << 15, 1 << 14}, 5));
  EXPECT(!refuses({}, 5));
}

TEST(NewIdsGetRowsFromTheLastToTheFirst) {
  const auto table = Halves();
  Lookup(*table, {10, 11, 10, 12});
  EXPECT_EQ(RowsOf(*table, {10, 11, 12, 99}), (Ids{2, 1, 0, -1}));
  Lookup(*table, {12, 13, 10, 14, 13});
  EXPECT_EQ(RowsOf(*table, {10, 11, 12, 13, 14}), (Ids{2, 1, 0, 4, 3}));
}

TEST(FreedRowsAreReusedBeforeNewOnesLastFreedFirst) {
  const auto table = Halves();
  Lookup(*table, {1, 2, 3, 4});  // rows 3, 2, 1, 0
  Evict(*table, {1, 4});
  Lookup(*table, {5, 6, 7});
  EXPECT_EQ(RowsOf(*table, {7, 6, 5}), (Ids{0, 3, 4}));
}

TEST(ARowIsDrawnFromItsIdAlone) {
  const auto forward = MakeTable({2, 3}, kUniform);
  const auto backward = MakeTable({2, 3}, kUniform, 1024);
  Ids ids(3000);
  for (int64_t i = 0; i < 3000; ++i) ids[i] = (i % 1500 - 7) * 0x123456789;
  const Values values = Lookup(*forward, ids).values;
  for (int64_t i = 1499; i >= 0; --i) Lookup(*backward, {ids[i]});
  EXPECT(Read(*backward, ids) == values);
  for (size_t i = 0; i < ids.size(); ++i) {
    Values drawn(6);
    ActiveKernels().draw(kUniform, ids[i], DType::kFloat32, 6,
                         reinterpret_cast<std::byte*>(drawn.data()));
    EXPECT_EQ(Values(&values[6 * i], &values[6 * i] + 6), drawn, i);
  }
}

TEST(StreamedOutputIsTheSame) {
  const auto table = MakeTable({16}, kUniform);
  Ids ids(2000);
  for (int64_t i = 0; i < 2000; ++i) ids[i] = i * i % 777;
  const Values values = Lookup(*table, ids).values;
  EXPECT(Lookup(*table, ids, nullptr, true).values == values);
  EXPECT(Read(*table, ids, true) == values);
}

TEST(ReadAdmitsNothingAndReadsUnknownIdsAsZeros) {
  const auto table = Halves();
  Lookup(*table, {1});
  EXPECT_EQ(Read(*table, {2, 1, INT64_MIN}), (Values{0, 0.5, 0}));
  EXPECT_EQ(table->size(), 1);
}

TEST(BatchesOfEverySizeReadEachIdsRow) {
  const auto table = MakeTable({3}, kUniform);
  Ids ids(70);
  for (int64_t i = 0; i < 70; ++i) ids[i] = i * i;
  Values expected = Lookup(*table, ids).values;
  ids[1] = ids[40] = -1;  // has no row
  std::fill_n(&expected[3], 3, 0.0f);
  std::fill_n(&expected[120], 3, 0.0f);
  for (size_t n = 0; n <= 70; ++n) {
    const Ids first(ids.begin(), ids.begin() + n);
    EXPECT_EQ(Read(*table, first), Values(expected.begin(), expected.begin() + 3 * n), n);
  }
  EXPECT_EQ(table->Stats().hits, 70 * 71 / 2 - 69 - 30);
}

TEST(APolicyIsAskedOnceForEachUnknownIdAndObeyed) {
  const auto table = Halves();
  Lookup(*table, {1});
  Scripted policy({false, true});
  EXPECT_EQ(Lookup(*table, {7, 1, 8, 7, 1, 7}, &policy).values, (Values{0, 0.5, 0.5, 0, 0.5, 0}));
  EXPECT_EQ(policy.asked, (Ids{7, 8}));
  EXPECT_EQ(policy.asked_counts, (Ids{3, 1}));
  EXPECT_EQ(RowsOf(*table, {7, 8}), (Ids{-1, 1}));
}

TEST(ALookupInStepsIsALookup) {
  const auto table = MakeTable({3}, kUniform);
  const auto other = MakeTable({3}, kUniform);
  Lookup(*table, {4});
  Lookup(*other, {4});
  const Ids ids = {9, 4, 9, 6, 5};
  const auto batch = table->Find(ids.data(), 5).value();
  const bool admit[] = {true, true, false, true};  // of 9, 4, 6, 5
  EXPECT(table->AdmitFound(*batch, admit).ok());
  Values values(15);
  EXPECT(table->Gather(*batch, reinterpret_cast<std::byte*>(values.data()), false).ok());
  Scripted policy({true, false, true});
  EXPECT_EQ(values, Lookup(*other, ids, &policy).values);
  EXPECT_EQ(RowsOf(*table, ids), RowsOf(*other, ids));
  const TableStats a = table->Stats(), b = other->Stats();
  EXPECT_EQ((Ids{a.lookups, a.hits, a.misses, a.admits, a.refusals}),
            (Ids{b.lookups, b.hits, b.misses, b.admits, b.refusals}));
}

TEST(BetweenTheStepsOthersMayAdmitAndEvict) {
  const auto table = Halves();
  Lookup(*table, {1, 2});
  const Ids ids = {1, 2, 3};
  const auto batch = table->Find(ids.data(), 3).value();
  Lookup(*table, {3});
  Evict(*table, {1});
  Insert(*table, {8}, {7});  // takes the row that was 1's
  const bool admit[] = {false, false, true};
  EXPECT(table->AdmitFound(*batch, admit).ok());
  Values values(3);
  EXPECT(table->Gather(*batch, reinterpret_cast<std::byte*>(values.data()), false).ok());
  EXPECT_EQ(values, (Values{0, 0.5, 0.5}));
  Evict(*table, {3});
  Insert(*table, {9}, {7});
  EXPECT(table->Gather(*batch, reinterpret_cast<std::byte*>(values.data()), false).ok());
  EXPECT_EQ(values, (Values{0, 0.5, 0}));
  EXPECT_EQ(table->size(), 3);
}

TEST(ContainsIsTrueOfIdsWithARow) {
  const auto table = Halves();
  Lookup(*table, {0, -1});
  Evict(*table, {-1});
  const Ids ids = {-1, 0, 1};
  bool contains[3];
  table->Contains(ids.data(), 3, contains);
  EXPECT_EQ(std::vector<bool>(contains, contains + 3), (std::vector<bool>{false, true, false}));
}

TEST(InsertOverwritesAndTheLastOfRepeatedIdsWins) {
  const auto table = Halves();
  Lookup(*table, {1, 2});
  Insert(*table, {2, 3, 2, 4, 3}, {10, 20, 30, 40, 50});
  EXPECT_EQ(Read(*table, {1, 2, 3, 4}), (Values{0.5, 30, 50, 40}));
  EXPECT_EQ(RowsOf(*table, {1, 2, 3, 4}), (Ids{1, 0, 3, 2}));
}

TEST(EvictedIdsAreGoneAndTheirRecordsZero) {
  const auto table = Halves();
  Lookup(*table, {1, 2, 3});
  EXPECT_EQ(Evict(*table, {2, 99, 2, 1}), 2);
  EXPECT_EQ(Evict(*table, {2}), 0);
  EXPECT_EQ(RowsOf(*table, {1, 2, 3}), (Ids{-1, -1, 0}));
  EXPECT_EQ(Read(*table, {1, 2, 3}), (Values{0, 0, 0.5}));
  // What no one may read yet is zeros too: a block shows all its rows.
  const BlockView block = table->View(0, 0).value();
  for (int64_t row = 0; row < 5; ++row) {
    EXPECT_EQ(*reinterpret_cast<float*>(block.data + row * block.row_stride_bytes),
              row == 0 ? 0.5f : 0.0f);
  }
}

TEST(AnIdThatReturnsAfterEvictionStartsAnew) {
  const auto table = Halves();
  const int counter = testing::AddSlot(*table, "count", {1}, 3);
  Insert(*table, {1}, {9});
  const Ids row = RowsOf(*table, {1});
  const float count = 8;
  EXPECT(table->WriteSlot(counter, row.data(), 1, reinterpret_cast<const std::byte*>(&count)).ok());
  Evict(*table, {1});
  EXPECT_EQ(Lookup(*table, {1}).values, (Values{0.5}));
  EXPECT_EQ(WholeSlot(*table, counter), (Values{3, 0, 0, 0, 0}));
}

TEST(ClearStartsAgainAtRowZeroAndKeepsTheSlots) {
  const auto table = Halves();
  testing::AddSlot(*table, "count", {1}, 3);
  Insert(*table, {1, 2, 3}, {7, 8, 9});
  EXPECT(testing::AccumulateRows(*table, {1}, {1}).ok());
  EXPECT(table->Clear().ok());
  EXPECT_EQ(table->size(), 0);
  EXPECT_EQ(table->Capacity(), 0);
  EXPECT_EQ(table->GradientRows(), 0);
  EXPECT_EQ(Read(*table, {1, 2, 3}), (Values{0, 0, 0}));
  Lookup(*table, {3});
  EXPECT_EQ(WholeSlot(*table, 0), (Values{0.5, 0, 0, 0, 0}));
  EXPECT_EQ(WholeSlot(*table, 1), (Values{3, 0, 0, 0, 0}));
}

TEST(StatsAddUp) {
  const auto table = Halves();
  Lookup(*table, {1, 2, 1, 3});
  Scripted policy({false, true});
  Lookup(*table, {1, 8, 9, 8}, &policy);
  Read(*table, {1, 50});
  Evict(*table, {1, 2});
  Lookup(*table, {1});
  Insert(*table, {60}, {1});
  const TableStats stats = table->Stats();
  EXPECT_EQ((Ids{stats.lookups, stats.hits, stats.misses}), (Ids{11, 2, 9}));
  EXPECT_EQ((Ids{stats.admits, stats.refusals, stats.evictions, stats.rows}), (Ids{6, 1, 2, 4}));
  EXPECT(table->Clear().ok());
  EXPECT_EQ(table->Stats().evictions, 6);
  EXPECT_EQ(table->Stats().rows, 0);
}

TEST(IdsMapListsLiveRowsAscending) {
  const auto table = Halves();
  Lookup(*table, {10, 11, 12, 13});
  Evict(*table, {12});
  Ids ids(3), rows(3);
  EXPECT_EQ(table->IdsMap(3, ids.data(), rows.data()), 3);
  EXPECT_EQ(ids, (Ids{13, 11, 10}));
  EXPECT_EQ(rows, (Ids{0, 2, 3}));
  EXPECT_EQ(table->IdsMap(2, ids.data(), rows.data()), 2);
}

TEST(ALookupThatFailsChangesNothing) {
  // One block of it is 2^51 bytes, which no system gives.
  const auto table = MakeTable({1 << 18}, {}, int64_t{1} << 31);
  const Ids ids = {1, 2};
  const std::vector<float> values(2 << 18);
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  EXPECT(table->Lookup(ids.data(), 2, nullptr, nullptr, false).status().code() ==
         Code::kOutOfMemory);
  EXPECT(table->Insert(ids.data(), 2, bytes).status().code() == Code::kOutOfMemory);
  EXPECT_EQ(RowsOf(*table, ids), (Ids{-1, -1}));
  const TableStats stats = table->Stats();
  EXPECT_EQ((Ids{stats.rows, stats.admits, table->Capacity()}), (Ids{0, 0, 0}));
}

TEST(ABatchTooLargeForItsPositionsIsRefused) {
  const auto table = Halves();
  constexpr int64_t kTooMany = int64_t{1} << 31;
  EXPECT(table->Read(nullptr, kTooMany, nullptr, false).code() == Code::kInvalidArgument);
  EXPECT(table->Lookup(nullptr, kTooMany, nullptr, nullptr, false).status().code() ==
         Code::kInvalidArgument);
  EXPECT(table->Insert(nullptr, kTooMany, nullptr).status().code() == Code::kInvalidArgument);
  EXPECT_EQ(table->Stats().lookups, 0);
}

TEST(AnIntegerTableCannotStartBeyondItsLimits) {
  const auto make = [](double first) {
    return Table::Make(
        {.name = "t", .dtype = DType::kInt32, .shape = {1}, .draw = {.shift = first}});
  };
  EXPECT_EQ(make(0x1p31).status().message(), "table 't': int32 cannot start at 2147483648.000000");
  EXPECT(make(0x1p31).status().code() == Code::kInvalidArgument);
  EXPECT(make(-0x1p31).ok());
}

}  // namespace
}  // namespace recis
