// What a table does when memory runs out. The whole test binary allocates through here.
#include <cstdlib>
#include <limits>
#include <new>

#include "table/table_testing.h"

namespace {
thread_local size_t largest_allocation = std::numeric_limits<size_t>::max();
}

void* operator new(size_t bytes) {
  void* memory = bytes <= largest_allocation ? std::malloc(bytes) : nullptr;
  return memory != nullptr ? memory : throw std::bad_alloc();
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return bytes <= largest_allocation ? std::malloc(bytes) : nullptr;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace recis {
namespace {

using testing::Lookup, testing::MakeTable, testing::Read, testing::Values;

TEST(ASlotThereIsNoMemoryForLeavesTheTableAsItWas) {
  auto table = MakeTable({1}, {.shift = 7}, 1);
  Lookup(*table, {1});
  Slot slot;
  slot.name = "large";
  slot.shape = {1 << 20};
  bool refused = false;
  largest_allocation = 1 << 20;
  try {
    (void)table->AddSlot(slot);
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  largest_allocation = std::numeric_limits<size_t>::max();
  EXPECT(refused);
  EXPECT_EQ(table->Slots().size(), 1u);
  EXPECT_EQ(Lookup(*table, {1, 2}).values, Values{7, 7});
  EXPECT_EQ(table->AddSlot(slot).value(), 1);
  EXPECT_EQ(Read(*table, {2, 1}), Values{7, 7});
}

}  // namespace
}  // namespace recis
