#include "table/row_changes.h"

#include <random>
#include <set>

#include "base/testing.h"

namespace recis::testing {
namespace {

constexpr Row kRows = 5000;

std::set<Row> Members(const RowSet& set) {
  std::set<Row> rows;
  for (Row row = 0; row < kRows; ++row) {
    if (set.Has(row)) rows.insert(row);
  }
  return rows;
}

TEST(ASetOfRowsHasWhatWasAdded) {
  std::mt19937_64 random(1);
  RowSet set;
  std::set<Row> expected;
  EXPECT(!set.Has(0) && !set.Has(kNoRow - 1));
  for (int i = 0; i < 300; ++i) {
    // Mostly near the end of what there is, and at both ends of words.
    const auto row = static_cast<Row>(random() % (random() % kRows + 1) / 63 * 64 % kRows);
    for (const Row added : {row, row + 63 < kRows ? row + 63 : row}) {
      set.Add(added);
      expected.insert(added);
    }
    EXPECT(Members(set) == expected, i);
  }
}

TEST(ChangesOfTwoTimesAreThoseOfEither) {
  // Either may know of rows beyond the last of the other.
  for (const auto& [a, b] : {std::pair<Row, Row>{3, 4000}, {4000, 3}, {70, 70}}) {
    RowChanges early, late;
    early.rows.Add(a);
    early.freed = {5, -7};
    late.rows.Add(b);
    late.freed = {9};
    late.Add(std::move(early));
    EXPECT(Members(late.rows) == std::set<Row>({a, b}), a, b);
    std::multiset<int64_t> freed(late.freed.begin(), late.freed.end());
    EXPECT(freed == std::multiset<int64_t>({-7, 5, 9}));
  }
}

}  // namespace
}  // namespace recis::testing
