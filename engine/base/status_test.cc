#include "base/status.h"

#include <memory>

#include "base/testing.h"

namespace recis {
namespace {

TEST(AStatusIsOkUntilItCarriesACode) {
  EXPECT(Status().ok());
  EXPECT_EQ(Status().message(), "");
  const Status status = Full("no row left");
  EXPECT(!status.ok());
  EXPECT(status.code() == Code::kFull);
  EXPECT_EQ(status.message(), "no row left");
}

TEST(EveryMakerGivesItsOwnCode) {
  EXPECT(InvalidArgument("").code() == Code::kInvalidArgument);
  EXPECT(OutOfRange("").code() == Code::kOutOfRange);
  EXPECT(NotFound("").code() == Code::kNotFound);
  EXPECT(OutOfMemory("").code() == Code::kOutOfMemory);
  EXPECT(Full("").code() == Code::kFull);
  EXPECT(Io(5, "").code() == Code::kIo);
  EXPECT_EQ(Io(5, "").error_number(), 5);
  EXPECT(Corrupt("").code() == Code::kCorrupt);
  EXPECT(Unavailable("").code() == Code::kUnavailable);
}

TEST(AResultHoldsAValueOrAStatus) {
  Result<std::unique_ptr<int>> value(std::make_unique<int>(7));
  EXPECT(value.ok());
  EXPECT_EQ(*std::move(value).value(), 7);
  const Result<std::unique_ptr<int>> failed(NotFound("no slot"));
  EXPECT(!failed.ok());
  EXPECT_EQ(failed.status().message(), "no slot");
}

TEST(ReturnIfErrorReturnsTheErrorAndOnlyAnError) {
  const auto reaches_the_end = [](Status first) -> Status {
    RECIS_RETURN_IF_ERROR(first);
    return OutOfRange("the end");
  };
  EXPECT_EQ(reaches_the_end({}).message(), "the end");
  EXPECT_EQ(reaches_the_end(Full("the first")).message(), "the first");
}

}  // namespace
}  // namespace recis
