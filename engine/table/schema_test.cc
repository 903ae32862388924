#include "table/schema.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "base/testing.h"

namespace recis {
namespace {

Slot Make(std::string name, DType dtype, std::vector<int64_t> shape, double initial = 0) {
  Slot slot;
  slot.name = std::move(name);
  slot.dtype = dtype;
  slot.shape = std::move(shape);
  slot.initial = initial;
  return slot;
}

// The message of the error that adding `slot` gives.
std::string Refusal(Schema& schema, Slot slot) {
  const size_t slots = schema.slots().size(), used = schema.used_bytes();
  const Status status = schema.Add(std::move(slot)).status();
  EXPECT(status.code() == Code::kInvalidArgument);
  EXPECT_EQ(schema.slots().size(), slots);
  EXPECT_EQ(schema.used_bytes(), used);
  return status.message();
}

TEST(SlotsAreAlignedToTheirTypeAndRecordsToSixteen) {
  Schema schema;
  EXPECT_EQ(schema.record_bytes(), 0u);
  EXPECT_EQ(schema.Add(Make("embedding", DType::kFloat16, {3})).value(), 0);
  EXPECT_EQ(schema.record_bytes(), 16u);
  EXPECT_EQ(schema.Add(Make("moment", DType::kFloat32, {3})).value(), 1);
  EXPECT_EQ(schema.Add(Make("flag", DType::kInt8, {})).value(), 2);
  EXPECT_EQ(schema.Add(Make("step", DType::kInt64, {1})).value(), 3);
  const size_t offsets[] = {0, 8, 20, 24}, counts[] = {3, 3, 1, 1};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(schema.slots()[i].offset, offsets[i]);
    EXPECT_EQ(static_cast<size_t>(schema.slots()[i].count), counts[i]);
  }
  EXPECT_EQ(schema.used_bytes(), 32u);
  EXPECT_EQ(schema.record_bytes(), 32u);
}

TEST(AddingAnEqualSlotFindsIt) {
  Schema schema;
  schema.Add(Make("embedding", DType::kFloat32, {4})).value();
  schema.Add(Make("sum", DType::kFloat32, {2, 2}, 0.5)).value();
  EXPECT_EQ(schema.Add(Make("sum", DType::kFloat32, {2, 2}, 0.5)).value(), 1);
  EXPECT_EQ(schema.slots().size(), 2u);
}

TEST(ASlotOfTheSameNameMustAgree) {
  Schema schema;
  schema.Add(Make("sum", DType::kFloat32, {2, 2}, 0.5)).value();
  EXPECT_EQ(Refusal(schema, Make("sum", DType::kFloat32, {2, 3}, 0.5)),
            "slot 'sum' exists as float32 [2, 2] starting at 0.500000, asked for float32 [2, 3] "
            "starting at 0.500000");
  Refusal(schema, Make("sum", DType::kFloat64, {2, 2}, 0.5));
  Refusal(schema, Make("sum", DType::kFloat32, {2, 2}, 0.25));
}

TEST(ShapesMustBePositiveAndTheRecordBounded) {
  Schema schema;
  Refusal(schema, Make("a", DType::kInt8, {0}));
  Refusal(schema, Make("a", DType::kInt8, {4, -1}));
  Refusal(schema, Make("a", DType::kInt8, {INT64_MAX, INT64_MAX}));
  Refusal(schema, Make("a", DType::kInt8, {int64_t{1} << 32, int64_t{1} << 32}));
  Refusal(schema, Make("a", DType::kFloat32, {int64_t{1} << 30}));
  EXPECT_EQ(schema.Add(Make("a", DType::kInt8, {int64_t{1} << 30})).value(), 0);
  Refusal(schema, Make("b", DType::kInt8, {1}));
}

TEST(AMissingSlotIsAnsweredWithTheNamesThereAre) {
  Schema schema;
  schema.Add(Make("embedding", DType::kFloat32, {4})).value();
  schema.Add(Make("step", DType::kInt64, {1})).value();
  EXPECT_EQ(schema.IndexOf("step").value(), 1);
  EXPECT_EQ(schema.IndexOf("stop").status().message(),
            "no slot 'stop'; there are: embedding, step");
}

TEST(EveryTypeHasTheNameTorchGivesIt) {
  const char* const names[kDTypeCount] = {"float32", "float64", "float16", "bfloat16",
                                          "int8",    "int32",   "int64"};
  for (int i = 0; i < kDTypeCount; ++i) {
    EXPECT_EQ(std::string(NameOf(static_cast<DType>(i))), names[i]);
  }
}

TEST(AnIntegerSlotCannotStartBeyondItsLimits) {
  Schema schema;
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(Refusal(schema, Make("n", DType::kInt8, {1}, 128)),
            "slot 'n': int8 cannot start at 128.000000");
  for (const double initial : {-129.0, inf, -inf, std::nan("")}) {
    Refusal(schema, Make("n", DType::kInt8, {1}, initial));
  }
  Refusal(schema, Make("n", DType::kInt32, {1}, 0x1p31));
  Refusal(schema, Make("n", DType::kInt64, {1}, 0x1p63));
  EXPECT(schema.Add(Make("a", DType::kInt8, {1}, -128.9)).ok());  // cut to a whole number
  EXPECT(schema.Add(Make("b", DType::kInt8, {1}, 127)).ok());
  EXPECT(schema.Add(Make("c", DType::kInt64, {1}, -0x1p63)).ok());
  EXPECT(schema.Add(Make("d", DType::kFloat32, {1}, inf)).ok());
}

}  // namespace
}  // namespace recis
