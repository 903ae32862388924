// Results that do not depend on the thread count, and many threads at one table.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/testing.h"
#include "base/thread_pool.h"
#include "table/admission.h"
#include "table/table.h"
#include "table/table_testing.h"

namespace recis {
namespace {

using testing::Accumulate, testing::AccumulateRows, testing::AddSlot, testing::Evict,
    testing::Found, testing::GradientOf, testing::Ids, testing::Insert, testing::Lookup,
    testing::MakeTable, testing::Read, testing::RowsOf, testing::Values, testing::WholeSlot;

constexpr int kDim = 5;
constexpr DrawArgs kNormal{Distribution::kNormal, 0, 1, 0, 1, 42};
constexpr RuleParams kAdam{
    .rule = Rule::kAdam, .step_size = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};

// Every id, row, slot and pending gradient of a table.
struct Content {
  explicit Content(const Table& table) : ids(table.size()), rows(table.size()) {
    table.IdsMap(table.size(), ids.data(), rows.data());
    for (size_t i = 0; i < table.Slots().size(); ++i) {
      slots.push_back(WholeSlot(table, static_cast<int>(i)));
    }
    gradient = GradientOf(table);
  }
  bool operator==(const Content&) const = default;

  Ids ids, rows;
  std::vector<Values> slots;
  std::map<int64_t, Values> gradient;
};

Ids RandomIds(std::mt19937_64& random, int64_t n, int64_t universe) {
  Ids ids(n);
  // Skewed: few ids hold much of the batch.
  for (int64_t& id : ids) id = static_cast<int64_t>(random() % (random() % universe + 1));
  return ids;
}

Values RandomValues(std::mt19937_64& random, size_t n) {
  std::normal_distribution<float> normal;
  Values values(n);
  for (float& value : values) value = normal(random);
  return values;
}

Content ContentAfterATrace(int threads) {
  SetThreadCount(threads);
  std::mt19937_64 random(1);
  const auto table = MakeTable({kDim}, kNormal);
  FrequencyAdmission policy(2, 3000);
  std::vector<int> states;
  for (int round = 0; round < 20; ++round) {
    const Ids ids = RandomIds(random, 8000, 20000);
    const Found found = Lookup(*table, ids, round % 3 == 0 ? &policy : nullptr);
    if (round == 4) states = {AddSlot(*table, "m", {kDim}), AddSlot(*table, "v", {kDim})};
    if (round == 10) (void)table->Clear();
    if (round % 4 == 1) Evict(*table, RandomIds(random, 5000, 20000));
    if (round % 5 == 2) {
      const Ids inserted = RandomIds(random, 3000, 30000);
      Insert(*table, inserted, RandomValues(random, inserted.size() * kDim));
    }
    EXPECT(
        Accumulate(*table, *found.batch, RandomValues(random, ids.size() * kDim), round % 2).ok());
    if (round > 4) EXPECT(table->Step(kAdam, states).ok());
    if (round % 6 == 4) table->ClearGradient();
  }
  return Content(*table);
}

TEST(ATraceGivesTheSameBitsForAnyThreadCount) {
  const Content one = ContentAfterATrace(1);
  EXPECT_LT(5000u, one.ids.size());
  EXPECT_LT(1000u, one.gradient.size());
  for (const int threads : {2, 4}) EXPECT(ContentAfterATrace(threads) == one, threads);
}

// Runs body(seed) on two threads at once; returns how often they said they failed.
template <class Body>
int RunOnTwoThreads(Body body) {
  SetThreadCount(2);
  std::atomic<int> failures{0};
  const auto run = [&](uint64_t seed) {
    try {
      failures += body(seed);
    } catch (const testing::Failure&) {
      ++failures;
    }
  };
  std::thread other(run, 1);
  run(2);
  other.join();
  return failures;
}

// A row is a draw of its id or, for an id without one, zeros: never a mixture.
TEST(ReadersNeverSeeHalfARow) {
  const auto table = MakeTable({kDim}, kNormal);
  const auto reference = MakeTable({kDim}, kNormal);
  Ids all(400);
  for (int64_t i = 0; i < 400; ++i) all[i] = i;
  const Values drawn = Lookup(*reference, all).values;
  const auto is_whole = [&](int64_t id, const float* row) {
    return std::equal(row, row + kDim, &drawn[id * kDim]) ||
           std::all_of(row, row + kDim, [](float value) { return value == 0; });
  };
  const int failures = RunOnTwoThreads([&](uint64_t seed) {
    std::mt19937_64 random(seed);
    int torn = 0;
    for (int round = 0; round < 100; ++round) {
      Evict(*table, RandomIds(random, 200, 400));
      const Ids ids = RandomIds(random, 3000, 400);
      const Values found = round % 2 == 0 ? Lookup(*table, ids).values : Read(*table, ids);
      for (size_t i = 0; i < ids.size(); ++i) torn += !is_whole(ids[i], &found[i * kDim]);
    }
    return torn;
  });
  EXPECT_EQ(failures, 0);
}

// Makes one call, of any kind; false if its answer cannot be.
bool CallAny(Table& table, FrequencyAdmission& policy, std::mt19937_64& random) {
  const Ids ids = RandomIds(random, int64_t{1} << (random() % 12), 3000);
  const auto n = static_cast<int64_t>(ids.size());
  Values values(ids.size() * kDim, 0.5f);
  auto* bytes = reinterpret_cast<std::byte*>(values.data());
  Ids rows(ids.size());
  switch (random() % 15) {
    case 0:
      return Accumulate(table, *Lookup(table, ids).batch, values).ok();
    case 1:
      return Accumulate(table, *Lookup(table, ids, &policy).batch, values, true).ok();
    case 2:
      return table.Step(kAdam, {1, 2}).ok();
    case 3:
      return Read(table, ids).size() == values.size();
    case 4:
      return Evict(table, {ids.begin(), ids.begin() + n / 4}) <= n;
    case 5:
      return table.Insert(ids.data(), n, bytes).ok();
    case 6: {
      const auto contains = std::make_unique<bool[]>(ids.size());
      table.Contains(ids.data(), n, contains.get());
      return true;
    }
    case 7: {
      const TableStats stats = table.Stats();
      return stats.misses >= 0 && stats.rows == stats.admits - stats.evictions;
    }
    case 8:
      return AddSlot(table, "slot " + std::to_string(table.Stats().lookups >> 16), {1}) > 0;
    case 9:
      return table.ReadWholeSlot(1, n, bytes).ok();
    case 10: {
      Ids known(ids.size());
      return table.IdsMap(n, known.data(), rows.data()) <= n && table.Capacity() >= 0;
    }
    case 11:
      return table.ReadGradient(n, 2, rows.data(), bytes) <= n && table.GradientRows() >= 0;
    case 12:
      table.ClearGradient();
      return policy.Sightings(ids[0]) < 2;
    default: {
      // By the time they are used, rows may be gone: then the call is refused.
      rows = RowsOf(table, ids);
      const Status status = random() % 2   ? table.ReadSlot(1, rows.data(), n, bytes)
                            : random() % 2 ? table.WriteSlot(1, rows.data(), n, bytes)
                                           : AccumulateRows(table, rows, values);
      return status.ok() || status.code() == Code::kOutOfRange;
    }
  }
}

// From two threads; ThreadSanitizer watches.
TEST(AnyCallMayMeetAnyOther) {
  const auto table = MakeTable({kDim}, kNormal);
  AddSlot(*table, "m", {kDim});
  AddSlot(*table, "v", {kDim});
  FrequencyAdmission policy(2, 100);
  const int failures = RunOnTwoThreads([&](uint64_t seed) {
    std::mt19937_64 random(seed);
    int wrong = 0;
    for (int round = 0; round < 3000; ++round) {
      wrong += !CallAny(*table, policy, random);
      if (random() % 500 == 0) (void)table->Clear();
    }
    return wrong;
  });
  EXPECT_EQ(failures, 0);
  const Content content(*table);
  EXPECT_EQ(RowsOf(*table, content.ids), content.rows);
  for (const auto& [row, sum] : content.gradient) {
    EXPECT(std::binary_search(content.rows.begin(), content.rows.end(), row), row);
  }
}

TEST(StatsTakenDuringReadsNeverCountMoreHitsThanLookups) {
  const auto table = MakeTable({1});
  Lookup(*table, {1});
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) Read(*table, {1});
  });
  int wrong = 0;
  for (int round = 0; round < 20000; ++round) wrong += table->Stats().misses < 1;
  done = true;
  reader.join();
  EXPECT_EQ(wrong, 0);
}

// A lookup cut in steps lets others in between; what it gathers is still whole.
TEST(LookupsInStepsMayInterleave) {
  const auto table = MakeTable({1}, {.shift = 0.5});
  const int failures = RunOnTwoThreads([&](uint64_t seed) {
    std::mt19937_64 random(seed);
    int wrong = 0;
    for (int round = 0; round < 300; ++round) {
      const Ids ids = RandomIds(random, 300, 500);
      const auto batch = table->Find(ids.data(), 300).value();
      const auto admit = std::make_unique<bool[]>(batch->distinct);
      for (int64_t i = 0; i < batch->distinct; ++i) admit[i] = random() % 2;
      wrong += !table->AdmitFound(*batch, admit.get()).ok();
      Evict(*table, RandomIds(random, 100, 500));
      Values values(300);
      wrong += !table->Gather(*batch, reinterpret_cast<std::byte*>(values.data()), false).ok();
      for (const float value : values) wrong += value != 0 && value != 0.5f;
    }
    return wrong;
  });
  EXPECT_EQ(failures, 0);
  const Content content(*table);
  EXPECT_EQ(RowsOf(*table, content.ids), content.rows);
}

}  // namespace
}  // namespace recis
