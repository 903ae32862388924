// Bags on the emulated device against those in memory: the same bits.
#include "table/device_bags.h"

#include <cmath>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "base/thread_pool.h"
#include "device/late_device_testing.h"
#include "device/space_testing.h"
#include "table/device_table_testing.h"

namespace recis::testing {
namespace {

struct Shape {
  int64_t bags;
  int64_t distinct;
  int64_t dim;
};

// Rows of no, a few and hundreds of ids; some embeddings are of hundreds, some of none.
struct Example {
  Example(Shape size, DType dtype, uint64_t seed) : size(size), dtype(dtype), random(seed) {
    offsets.push_back(0);
    for (int64_t bag = 0; bag < size.bags; ++bag) {
      const uint64_t ids = random() % 8 == 0 ? random() % 300 : random() % 4;
      offsets.push_back(offsets.back() + static_cast<int64_t>(ids));
    }
    std::uniform_real_distribution<double> uniform;
    for (int64_t i = 0; i < offsets.back(); ++i) {
      inverse.push_back(
          static_cast<int64_t>(static_cast<double>(size.distinct) * std::pow(uniform(random), 3)));
    }
  }
  int64_t positions() const { return offsets.back(); }
  DType accumulator() const { return AccumulatorOf(dtype); }
  Bytes Values(int64_t rows, int64_t dim, DType type) {
    const size_t bytes = static_cast<size_t>(dim) * SizeOf(type);
    Bytes values(static_cast<size_t>(rows) * bytes);
    const DrawArgs draw{Distribution::kNormal, 0, 2, 0, 1, random()};
    for (int64_t row = 0; row < rows; ++row) {
      ActiveKernels().draw(draw, row, type, dim, values.data() + row * bytes);
    }
    return values;
  }
  Bytes Room(int64_t rows) const {
    return Bytes(static_cast<size_t>(rows * size.dim) * SizeOf(accumulator()), std::byte{0xa5});
  }
  Bags Made() const {
    auto made = Bags::Make(inverse.data(), positions(), offsets.data(), size.bags, size.distinct);
    return std::move(made.value());
  }

  Shape size;
  DType dtype;
  std::mt19937_64 random;
  std::vector<int64_t> inverse, offsets;
};

DeviceBags MadeOn(const std::shared_ptr<Device>& device, const Bags& bags) {
  auto made = DeviceBags::Make(device, bags);
  return std::move(made.value());
}

// Each call is on another stream, if there are more than one.
void Try(const std::shared_ptr<Device>& device, Shape size, DType dtype, uint64_t seed,
         int streams = 1) {
  static char others[8];
  const auto next = [&] { UseStream(streams == 1 ? nullptr : &others[seed++ % streams]); };
  Example e(size, dtype, seed);
  const Bags bags = e.Made();
  next();
  const DeviceBags there = MadeOn(device, bags);
  for (const int kind : {0, 1, 2}) {  // sum, weighted sum, mean
    const Bytes weights = e.Values(e.positions(), 1, e.accumulator());
    const bool weighted = kind == 1, mean = kind == 2;
    const auto same = [&](auto of_bags, auto of_device, int64_t given, int64_t told) {
      next();
      const Bytes values = e.Values(given, size.dim, dtype);
      Bytes out = e.Room(told);
      OnDevice<std::byte> device_values(device, values), device_weights(device, weights),
          device_out(device, out);
      (bags.*of_bags)(values.data(), dtype, size.dim, weighted ? weights.data() : nullptr, mean,
                      out.data());
      EXPECT((there.*of_device)(device_values.data(), dtype, size.dim,
                                weighted ? device_weights.data() : nullptr, mean, device_out.data())
                 .ok());
      EXPECT(device_out.Back() == out, size.bags, size.dim, static_cast<int>(dtype), kind);
    };
    same(&Bags::Sum, &DeviceBags::Sum, size.distinct, size.bags);
    same(&Bags::Spread, &DeviceBags::Spread, size.bags, size.distinct);
  }
  UseStream(nullptr);
}

void TryAll(const std::shared_ptr<Device>& device, int64_t most_bags) {
  SetThreadCount(4);
  uint64_t seed = 0;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    for (const int64_t dim : {1, 19, 70}) Try(device, {60, 90, dim}, dtype, ++seed);
  }
  for (const Shape size : {Shape{0, 5, 4}, Shape{0, 0, 4}, Shape{3, 1, 128}, Shape{1, 900, 2}}) {
    Try(device, size, DType::kFloat32, ++seed);
  }
  Try(device, {most_bags, 2000, 5}, DType::kFloat32, ++seed);
}

TEST(SumsOnADeviceHaveTheBitsOfThoseInMemory) { TryAll(EmulatedDevice(), 3000); }

TEST(OneThreadALaneHasTheBitsOfThoseInMemory) {
  const auto device = EmulatedDevice(LanesKernels());
  uint64_t seed = 0;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16}) {
    for (const int64_t dim : {3, 70}) Try(device, {12, 9, dim}, dtype, ++seed);
  }
}

TEST(ALateDeviceHasTheBitsOfThoseInMemory) {
  for (uint64_t seed = 0; seed < 16; ++seed) {
    Try(LateDevice(seed), {40, 30, 3}, DType::kFloat32, seed, 3);
  }
}

// Where there is one.
TEST(AGpuHasTheBitsOfThoseInMemory) {
  if (auto device = CudaDevice(0); device.ok()) TryAll(device.value(), 20000);
}

TEST(SumsWaitForNothing) {
  const auto space = std::make_shared<WatchedSpace>(size_t{1} << 30);
  Example e({9, 5, 4}, DType::kFloat32, 1);
  const DeviceBags there = MadeOn(EmulatedDevice(HostKernels(), space), e.Made());
  EXPECT_EQ(space->waits.load(), 1);
  const Bytes embeddings = e.Values(5, 4, e.dtype), grads = e.Values(9, 4, e.dtype);
  Bytes sums = e.Room(9), spread = e.Room(5);
  EXPECT(there.Sum(embeddings.data(), e.dtype, 4, nullptr, true, sums.data()).ok());
  EXPECT(there.Spread(grads.data(), e.dtype, 4, nullptr, true, spread.data()).ok());
  EXPECT_EQ(space->waits.load(), 1);
}

TEST(ADeviceWithoutRoomSaysSo) {
  Example e({500, 300, 40}, DType::kFloat32, 1);
  const auto with = [](size_t bytes) {
    return EmulatedDevice(HostKernels(), EmulatedSpace(bytes));
  };
  EXPECT(DeviceBags::Make(with(1000), e.Made()).status().code() == Code::kOutOfMemory);
  const auto needs = static_cast<size_t>(2 * e.positions() + e.size.bags) * sizeof(uint32_t) + 1000;
  const DeviceBags there = MadeOn(with(needs), e.Made());
  const Bytes embeddings = e.Values(300, 40, e.dtype), grads = e.Values(500, 40, e.dtype);
  Bytes sums = e.Room(500), spread = e.Room(300);
  EXPECT(there.Sum(embeddings.data(), e.dtype, 40, nullptr, false, sums.data()).code() ==
         Code::kOutOfMemory);
  EXPECT(there.Spread(grads.data(), e.dtype, 40, nullptr, false, spread.data()).code() ==
         Code::kOutOfMemory);
}

}  // namespace
}  // namespace recis::testing
