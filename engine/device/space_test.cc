#include "device/space.h"

#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

// The emulated device, and the first GPU where there is one.
std::vector<std::shared_ptr<Space>> Spaces() {
  std::vector<std::shared_ptr<Space>> spaces = {EmulatedSpace()};
  if (auto cuda = CudaSpace(0); cuda.ok()) spaces.push_back(cuda.value());
  return spaces;
}

TEST(WhatIsCopiedThereComesBack) {
  for (const auto& space : Spaces()) {
    std::vector<int64_t> sent = {1, -2, INT64_MAX}, back(3);
    const size_t bytes = sent.size() * sizeof(int64_t);
    std::byte* memory = space->Allocate(bytes, nullptr).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0u, space->name());
    EXPECT(space->Copy(memory, sent.data(), bytes, nullptr).ok());
    EXPECT(space->Copy(back.data(), memory, bytes, nullptr).ok());
    EXPECT(space->Wait(nullptr).ok());
    EXPECT_EQ(back, sent, space->name());
    space->Free(memory, nullptr);
  }
}

TEST(NothingIsCopiedFromNowhere) {
  for (const auto& space : Spaces()) {
    EXPECT(space->Copy(nullptr, nullptr, 0, nullptr).ok(), space->name());
    EXPECT(space->Fill(nullptr, 1, 0, nullptr).ok(), space->name());
  }
}

TEST(AStreamWaitsForWhatItIsToldToFollow) {
  for (const auto& space : Spaces()) {
    constexpr size_t kBytes = 64 << 20;
    const Stream first = space->NewStream().value(), second = space->NewStream().value();
    std::byte* memory = space->Allocate(kBytes, first).value();
    std::byte* pinned = space->AllocateHost(kBytes).value();
    for (int round = 0; round < 8; ++round) {
      const auto value = static_cast<uint8_t>(round + 1);
      EXPECT(space->Fill(memory, value, kBytes, first).ok());
      EXPECT(space->Order(first, second).ok());
      EXPECT(space->Copy(pinned, memory, kBytes, second).ok());
      EXPECT(space->Wait(second).ok());
      EXPECT_EQ(pinned[0], std::byte{value}, space->name());
      EXPECT_EQ(pinned[kBytes - 1], std::byte{value}, space->name());
    }
    space->FreeHost(pinned);
    space->Free(memory, first);
    space->FreeStream(first);
    space->FreeStream(second);
  }
}

TEST(MemoryThatIsNotThereIsOutOfMemory) {
  for (const auto& space : Spaces()) {
    const auto refused = space->Allocate(size_t{1} << 46, nullptr);
    EXPECT(refused.status().code() == Code::kOutOfMemory, refused.status().message());
    EXPECT_NE(refused.status().message().find("70368744177664 bytes"), std::string::npos);
    EXPECT(space->Allocate(16, nullptr).ok());
  }
}

TEST(WhatIsGivenBackIsFreeAgain) {
  const auto space = EmulatedSpace(100);
  std::byte* memory = space->Allocate(80, nullptr).value();
  const auto refused = space->Allocate(21, nullptr);
  EXPECT(refused.status().code() == Code::kOutOfMemory);
  EXPECT_EQ(refused.status().message(), "emulated: 21 bytes were asked for, 20 of 100 are free");
  space->Free(memory, nullptr);
  EXPECT(space->Allocate(100, nullptr).ok());
}

TEST(WithoutAGpuTheReasonSaysWhatToDo) {
  const auto none = CudaSpace(1 << 20);
  EXPECT(none.status().code() == Code::kUnavailable);
  EXPECT_NE(none.status().message(), "");
}

}  // namespace
}  // namespace recis
