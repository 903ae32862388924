#include "table/directory.h"

#include <cstdint>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

// Reserves, allocates and binds; the id of a row is 1000 + row.
std::vector<Row> Allocate(Directory& directory, int64_t count) {
  EXPECT(directory.Reserve(count).ok());
  std::vector<Row> rows(static_cast<size_t>(count));
  directory.Allocate(count, rows.data());
  for (const Row row : rows) directory.Bind(row, 1000 + row);
  return rows;
}

using Rows = std::vector<Row>;

TEST(RowsAreDenseFromZero) {
  Directory directory;
  EXPECT_EQ(Allocate(directory, 3), (Rows{0, 1, 2}));
  EXPECT_EQ(Allocate(directory, 2), (Rows{3, 4}));
  EXPECT_EQ(directory.end(), 5);
  EXPECT_EQ(directory.live_rows(), 5);
}

TEST(TheLastFreedRowIsReusedFirst) {
  Directory directory;
  Allocate(directory, 6);
  for (const Row row : {4, 1, 3}) directory.Free(row);
  EXPECT_EQ(directory.live_rows(), 3);
  EXPECT_EQ(Allocate(directory, 2), (Rows{3, 1}));
  EXPECT_EQ(Allocate(directory, 3), (Rows{4, 6, 7}));
  EXPECT_EQ(directory.end(), 8);
}

TEST(EndAfterCountsFreedRowsFirst) {
  Directory directory;
  Allocate(directory, 5);
  directory.Free(2);
  directory.Free(0);
  EXPECT_EQ(directory.EndAfter(0), 5);
  EXPECT_EQ(directory.EndAfter(2), 5);
  EXPECT_EQ(directory.EndAfter(3), 6);
}

TEST(LiveIsFalseOutsideTheTableAndForFreedRows) {
  Directory directory;
  EXPECT(!directory.Live(0));
  Allocate(directory, 2);
  directory.Free(0);
  EXPECT(!directory.Live(-1));
  EXPECT(!directory.Live(0));
  EXPECT(directory.Live(1));
  EXPECT(!directory.Live(2));
  EXPECT(!directory.Live(int64_t{1} << 32));  // row 0 in its low 32 bits
  EXPECT_EQ(directory.IdOf(1), 1001);
}

TEST(IdsStayWithTheirRowsPastTheFirstChunk) {
  Directory directory;
  Allocate(directory, 200000);
  for (const Row row : {0u, 65535u, 65536u, 131072u, 199999u}) {
    EXPECT(directory.Live(row), row);
    EXPECT_EQ(directory.IdOf(row), 1000 + row);
  }
}

TEST(MoreRowsThanTheFormatHoldsAreRefused) {
  Directory directory;
  Allocate(directory, 3);
  const Status status = directory.Reserve(int64_t{kNoRow} - 2);
  EXPECT(status.code() == Code::kFull);
  EXPECT(status.message().find("has 3 and 4294967293 more") != std::string::npos, status.message());
  EXPECT_EQ(Allocate(directory, 1), (Rows{3}));
}

TEST(ClearStartsAgainAtZeroAndHoldsNoMemory) {
  Directory directory;
  Allocate(directory, 100000);
  for (Row row = 0; row < 50000; ++row) directory.Free(row);
  directory.Clear();
  EXPECT_EQ(directory.live_rows(), 0);
  EXPECT_EQ(directory.Bytes(), 0u);
  EXPECT(!directory.Live(0));
  EXPECT_EQ(Allocate(directory, 2), (Rows{0, 1}));
  EXPECT(!directory.Live(99999));
}

TEST(AFreedRowThatWasReusedAndFreedAgainHasChanged) {
  Directory directory;
  EXPECT(directory.Reserve(4).ok());
  Row rows[4];
  directory.Allocate(4, rows);
  for (Row row = 0; row < 4; ++row) directory.Bind(row, row);
  for (Row row = 0; row < 3; ++row) directory.Free(row);
  EXPECT_EQ(directory.TakeUnchanged(), 0);
  directory.Allocate(1, rows);
  directory.Bind(rows[0], 9);
  directory.Free(3);
  EXPECT_EQ(directory.TakeUnchanged(), 2);
}

}  // namespace
}  // namespace recis
