#include "table/preserved.h"

#include <cstring>
#include <map>
#include <random>

#include "base/testing.h"

namespace recis::testing {
namespace {

constexpr size_t kRecordBytes = 24;
constexpr uint32_t kSlices = 16;
constexpr int64_t kUnlimited = int64_t{1} << 40;

// Records of rows that tell what they are of.
struct Records {
  std::vector<std::vector<std::byte>> values;
  std::vector<const std::byte*> pointers;

  explicit Records(const std::vector<RowOfId>& rows, int64_t version = 0) {
    for (const RowOfId& row : rows) {
      std::vector<std::byte>& value = values.emplace_back(kRecordBytes);
      const int64_t parts[] = {row.id, row.row, version};
      std::memcpy(value.data(), parts, sizeof(parts));
    }
    for (const auto& value : values) pointers.push_back(value.data());
  }
};

Status Keep(Preserved& preserved, const std::vector<RowOfId>& rows, int64_t version = 0) {
  const Records records(rows, version);
  return preserved.Keep(rows.data(), static_cast<int64_t>(rows.size()), records.pointers.data());
}

// Whether the row has a copy, of this id and version.
bool Has(const Preserved& preserved, RowOfId row, int64_t version = 0) {
  Preserved::Copy copy;
  preserved.Find(&row.row, 1, &copy);
  const Records expected({row}, version);
  return copy.record != nullptr && copy.id == row.id &&
         std::memcmp(copy.record, expected.pointers[0], kRecordBytes) == 0;
}

TEST(ARowIsKeptAsItWasFirst) {
  Preserved preserved(kRecordBytes, kUnlimited, 100);
  EXPECT(Keep(preserved, {{-5, 7}, {40, 8}, {-5, 7}}).ok());
  EXPECT(Keep(preserved, {{41, 9}, {40, 8}}, 1).ok());
  EXPECT(Has(preserved, {-5, 7}) && Has(preserved, {40, 8}) && Has(preserved, {41, 9}, 1));
  preserved.Touch(10);
  EXPECT(Keep(preserved, {{42, 10}}).ok());
  EXPECT(!Has(preserved, {42, 10}));  // it was new
}

TEST(CopiesGoWithTheirSlicesAndLeaveRoom) {
  constexpr int64_t kMost = 50;
  Preserved preserved(kRecordBytes, (kMost - 1) * kRecordBytes, 1 << 20);
  std::mt19937_64 random(3);
  std::map<Row, RowOfId> kept;
  Row next = 0;
  for (uint32_t slice = 0; slice < kSlices; ++slice) {
    for (int64_t id = 0; !preserved.full(); ++id) {
      std::vector<RowOfId> rows{{static_cast<int64_t>(random() >> 1), next++}};
      preserved.DropDone(&rows);
      if (rows.empty()) continue;
      EXPECT(Keep(preserved, rows).ok());
      kept[rows[0].row] = rows[0];
    }
    EXPECT_EQ(kept.size(), static_cast<size_t>(kMost));
    for (const auto& [row, of] : kept) EXPECT(Has(preserved, of), row);
    preserved.Done(kSlices, slice, slice + 1);
    if (slice + 1 == kSlices) break;
    for (auto it = kept.begin(); it != kept.end();) {
      const bool done = SliceOf(it->second.id, kSlices) == slice;
      EXPECT_EQ(Has(preserved, it->second), !done);
      it = done ? kept.erase(it) : std::next(it);
    }
    if (slice + 2 == kSlices) break;  // ids of one slice are hard to come by
  }
  preserved.Release();
  EXPECT(!preserved.full());
  EXPECT(Keep(preserved, {{1, 1}}).ok());
  EXPECT(!Has(preserved, {1, 1}));
}

}  // namespace
}  // namespace recis::testing
