#include "table/admission.h"

#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

std::vector<int> Admit(AdmissionPolicy& policy, const std::vector<int64_t>& ids,
                       std::vector<uint32_t> counts = {}) {
  counts.resize(ids.size(), 1);
  const auto admit = std::make_unique<bool[]>(ids.size());
  policy.Admit(ids.data(), counts.data(), static_cast<int64_t>(ids.size()), admit.get());
  return {admit.get(), admit.get() + ids.size()};
}

struct State {
  std::vector<int64_t> ids, counts;
};

State Dump(const FrequencyAdmission& policy) {
  const auto room = static_cast<size_t>(policy.size());
  State state{std::vector<int64_t>(room), std::vector<int64_t>(room)};
  EXPECT_EQ(policy.Dump(policy.size(), state.ids.data(), state.counts.data()), policy.size());
  return state;
}

void Restore(FrequencyAdmission& policy, const State& state) {
  policy.Restore(state.ids.data(), state.counts.data(), static_cast<int64_t>(state.ids.size()));
}

TEST(AdmitNoneAdmitsNone) {
  AdmitNone policy;
  EXPECT_EQ(Admit(policy, {1, 2, 3}, {9, 9, 9}), (std::vector<int>{0, 0, 0}));
}

TEST(AnIdIsAdmittedAtItsNthSighting) {
  FrequencyAdmission policy(3, 100);
  EXPECT_EQ(Admit(policy, {5, 6}), (std::vector<int>{0, 0}));
  EXPECT_EQ(Admit(policy, {6, 5}), (std::vector<int>{0, 0}));
  EXPECT_EQ(policy.Sightings(5), 2);
  EXPECT_EQ(Admit(policy, {5}), (std::vector<int>{1}));
  EXPECT_EQ(policy.Sightings(5), 0);
  EXPECT_EQ(policy.Sightings(6), 2);
}

TEST(RepeatsInOneLookupCount) {
  FrequencyAdmission policy(4, 100);
  EXPECT_EQ(Admit(policy, {1, 2, 3}, {4, 3, 1}), (std::vector<int>{1, 0, 0}));
  EXPECT_EQ(Admit(policy, {2, 3}, {1, 2}), (std::vector<int>{1, 0}));
  EXPECT_EQ(policy.Sightings(3), 3);
}

TEST(AnAdmittedIdThatComesBackStartsAtZero) {
  FrequencyAdmission policy(2, 100);
  Admit(policy, {7});
  EXPECT_EQ(Admit(policy, {7}), (std::vector<int>{1}));
  EXPECT_EQ(Admit(policy, {7}), (std::vector<int>{0}));
  EXPECT_EQ(Admit(policy, {7}), (std::vector<int>{1}));
}

TEST(AFullGenerationBecomesTheOldOneAndTheOldOneIsForgotten) {
  FrequencyAdmission policy(9, 4);  // generations of two
  Admit(policy, {1, 2});
  Admit(policy, {3});  // young: 3
  EXPECT_EQ(policy.Sightings(1), 1);
  Admit(policy, {1});  // seen again, so it moves: old 2, young 3 and 1
  EXPECT_EQ(policy.Sightings(1), 2);
  EXPECT_EQ(policy.size(), 3);
  Admit(policy, {4});  // old 3 and 1, young 4
  EXPECT_EQ(policy.Sightings(1), 2);
  EXPECT_EQ(policy.Sightings(2), 0);
  EXPECT_EQ(Dump(policy).ids, (std::vector<int64_t>{3, 1, 4}));
}

// Exact counts, until as many other new ids as a generation holds came by.
void CheckAgainstAMap(FrequencyAdmission& policy, std::unordered_map<int64_t, int64_t>& counts,
                      std::vector<int64_t>& trace, int64_t max_candidates, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (int step = 0; step < 3000; ++step) {
    const auto id = static_cast<int64_t>(random() % 8 * (random() % 8));
    std::set<int64_t> since;
    for (size_t i = trace.size(); i > 0 && trace[i - 1] != id; --i) since.insert(trace[i - 1]);
    const int64_t seen = policy.Sightings(id);
    if (seen == 0 && counts[id] != 0) {
      EXPECT_LE(max_candidates / 2, static_cast<int64_t>(since.size()), step);
      counts[id] = 0;
    }
    EXPECT_EQ(seen, counts[id], step);
    const bool admitted = ++counts[id] == 3;
    EXPECT_EQ(Admit(policy, {id}), std::vector<int>{admitted}, step);
    if (admitted) counts[id] = 0;
    trace.push_back(id);
    EXPECT_LE(policy.size(), max_candidates);
  }
}

TEST(SightingsAreExactUntilForgotten) {
  for (const int64_t max_candidates : {2, 9, 16, 1000}) {
    FrequencyAdmission policy(3, max_candidates);
    std::unordered_map<int64_t, int64_t> counts;
    std::vector<int64_t> trace;
    CheckAgainstAMap(policy, counts, trace, max_candidates, 1);
    FrequencyAdmission restored(3, max_candidates);
    Admit(restored, {100, 101});  // what was there goes
    Restore(restored, Dump(policy));
    EXPECT_EQ(restored.Sightings(100), 0);
    CheckAgainstAMap(restored, counts, trace, max_candidates, 2);
  }
}

TEST(ADumpRestoredIsDumpedAgainAlike) {
  FrequencyAdmission policy(5, 20), restored(5, 20);
  std::mt19937_64 random(3);
  for (int step = 0; step < 500; ++step) Admit(policy, {static_cast<int64_t>(random() % 60)});
  Restore(restored, Dump(policy));
  EXPECT_EQ(Dump(restored).ids, Dump(policy).ids);
  EXPECT_EQ(Dump(restored).counts, Dump(policy).counts);
}

TEST(DumpKeepsToTheRoomItIsGiven) {
  FrequencyAdmission policy(5, 20);
  Admit(policy, {3, 1, 4});
  int64_t ids[3] = {}, counts[3] = {};
  EXPECT_EQ(policy.Dump(2, ids, counts), 2);
  EXPECT_EQ(ids[1], 1);
  EXPECT_EQ(ids[2], 0);
}

TEST(ClearForgetsAll) {
  FrequencyAdmission policy(3, 2);
  Admit(policy, {1, 2});
  policy.Clear();
  EXPECT_EQ(policy.size(), 0);
  EXPECT_EQ(policy.Sightings(1) + policy.Sightings(2), 0);
}

}  // namespace
}  // namespace recis
