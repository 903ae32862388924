#include "device/array_pool.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

using Array = ArrayPool::Array;

constexpr size_t kKiB = size_t{1} << 10;
constexpr size_t kMiB = size_t{1} << 20;

Array Get(ArrayPool& pool, size_t bytes) {
  Result<Array> array = pool.Get(bytes);
  EXPECT(array.ok());
  return std::move(array.value());
}

bool Holds(const Array& array, int value) {
  return std::all_of(array.data(), array.data() + array.bytes(),
                     [&](std::byte b) { return b == static_cast<std::byte>(value); });
}

TEST(ArraysAreZeroedAlignedAndLargeEnough) {
  ArrayPool pool;
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, 5 * kMiB}) {
    for (int round = 0; round < 2; ++round) {  // the second gets the first one's place
      const Array array = Get(pool, bytes);
      EXPECT_LE(bytes, array.bytes());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(array.data()) % 4096, 0u);
      EXPECT(Holds(array, 0), bytes);
      std::memset(array.data(), 0xff, array.bytes());
    }
  }
}

TEST(SmallArraysShareALargePage) {
  ArrayPool pool;
  std::vector<Array> arrays;
  for (int i = 0; i < 32; ++i) arrays.push_back(Get(pool, 64 * kKiB));
  EXPECT_EQ(pool.bytes(), kLargePageBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(arrays[0].data()) % kLargePageBytes, 0u);
}

TEST(PlacesThatTouchAreOneAgain) {
  ArrayPool pool;
  std::vector<Array> arrays;
  for (int i = 0; i < 8; ++i) arrays.push_back(Get(pool, 256 * kKiB));
  const std::byte* first = arrays[2].data();
  for (const int i : {2, 4, 3}) arrays[i] = Array();  // the last joins both sides
  EXPECT_EQ(Get(pool, 768 * kKiB).data(), first);
  EXPECT_EQ(pool.bytes(), kLargePageBytes);
}

TEST(APoolWithoutArraysHoldsNoMemory) {
  ArrayPool pool;
  Array first = Get(pool, 3 * kMiB);
  Array second = std::move(first);
  EXPECT(first.data() == nullptr);
  EXPECT_LE(3 * kMiB, pool.bytes());
  second = Array();
  EXPECT_EQ(pool.bytes(), 0u);
}

TEST(AnArrayTheSystemRefusesIsAnErrorAndLeavesThePoolAsItWas) {
  ArrayPool pool;
  const Array array = Get(pool, kKiB);
  EXPECT(pool.Get(size_t{1} << 62).status().code() == Code::kOutOfMemory);
  EXPECT_EQ(pool.bytes(), kLargePageBytes);
  EXPECT(Holds(array, 0));
}

TEST(NoTwoArraysOverlapWhateverComesAndGoes) {
  ArrayPool pool;
  const auto work = [&](int seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    std::vector<std::pair<Array, int>> arrays;
    bool intact = true;
    for (int i = 0; i < 400; ++i) {
      if (arrays.size() < 20 && random() % 3 != 0) {
        arrays.emplace_back(Get(pool, random() % (100 * kKiB) + 1), seed + 2 * i % 100);
        intact &= Holds(arrays.back().first, 0);
        std::memset(arrays.back().first.data(), arrays.back().second, arrays.back().first.bytes());
      } else if (!arrays.empty()) {
        std::swap(arrays[random() % arrays.size()], arrays.back());
        intact &= Holds(arrays.back().first, arrays.back().second);
        arrays.pop_back();
      }
    }
    return intact;
  };
  bool other = false;
  std::thread thread([&] { other = work(1); });
  const bool mine = work(2);
  thread.join();
  EXPECT(mine);
  EXPECT(other);
  EXPECT_EQ(pool.bytes(), 0u);
}

}  // namespace
}  // namespace recis
