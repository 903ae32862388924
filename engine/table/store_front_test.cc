// What stands before a table in a store: a commit asks it first, and it keeps changes out.

#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

// Has one newer value of id 1, if any.
class Front : public StoreFront {
 public:
  explicit Front(std::shared_ptr<Table> table) : table_(std::move(table)) {}
  void Change(float value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    newer_ = {value, value, value};
  }
  Result<std::unique_lock<std::mutex>> WriteBackAndHold() override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (fails) return InvalidArgument("the device is gone");
    if (other != nullptr) EXPECT(other->IsHeld());
    if (!newer_.empty()) Insert(*table_, {1}, newer_);
    newer_.clear();
    return lock;
  }
  // Asked by a thread of its own, since whoever asks may hold it.
  bool IsHeld() {
    bool held = false;
    std::thread([&] {
      held = !mutex_.try_lock();
      if (!held) mutex_.unlock();
    }).join();
    return held;
  }
  bool fails = false;
  Front* other = nullptr;  // must be held by then

 private:
  const std::shared_ptr<Table> table_;
  std::mutex mutex_;
  Values newer_;  // GUARDED_BY(mutex_)
};

struct Fronted {
  std::shared_ptr<Table> table;
  std::shared_ptr<Front> front;
};

Fronted JoinFronted(const std::shared_ptr<Store>& store, const std::string& name = "t") {
  const auto table = Value(Table::Make(Options(name), store, /*fronted=*/true));
  const auto front = Value(store->Front(name, [&]() -> Result<std::shared_ptr<StoreFront>> {
    return std::shared_ptr<StoreFront>(std::make_shared<Front>(table));
  }));
  return {table, std::static_pointer_cast<Front>(front)};
}

TEST(ACommitHasWhatStandsBeforeItsTables) {
  const TemporaryDirectory directory;
  {
    const auto store = Open(directory.path(), 1 << 20);
    const auto one = JoinFronted(store, "one"), two = JoinFronted(store, "two");
    EXPECT(JoinFronted(store, "one").front == one.front);
    one.front->Change(7);
    two.front->Change(8);
    two.front->other = one.front.get();
    EXPECT(store->Commit(1, "").ok());
    one.front->Change(9);  // is lost
    store->Close();
  }
  const auto store = Open(directory.path(), 1 << 20);
  EXPECT(Read(*JoinFronted(store, "one").table, {1}) == Values({7, 7, 7}));
  EXPECT(Read(*JoinFronted(store, "two").table, {1}) == Values({8, 8, 8}));
  store->Close();
}

TEST(ACommitOfAFrontThatFailsChangesNothing) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), 1 << 20);
  const auto one = JoinFronted(store, "one"), two = JoinFronted(store, "two");
  EXPECT(store->Commit(1, "").ok());
  one.front->Change(7);
  two.front->fails = true;
  EXPECT_EQ(store->Commit(2, "").status().message(), "the device is gone");
  EXPECT_EQ(store->Epochs().back().step, 1);
  two.front->fails = false;
  EXPECT(store->Commit(3, "").ok());  // so it did not go on holding the first
  EXPECT(Read(*one.table, {1}) == Values({7, 7, 7}));
  store->Close();
}

TEST(ATableHasAFrontForGoodOrNone) {
  const TemporaryDirectory directory;
  const auto store = Open(directory.path(), 1 << 20);
  JoinFronted(store, "fronted");
  Join(store, "plain");
  const Status alone = Table::Make(Options("fronted"), store).status();
  EXPECT(alone.message().find("on a device") != std::string::npos, alone.message());
  const Status fronted = Table::Make(Options("plain"), store, true).status();
  EXPECT(fronted.message().find("without a device") != std::string::npos, fronted.message());
  store->Leave("fronted");
  Join(store, "fronted");
  EXPECT(store->Commit(1, "").ok());
  store->Close();
}

}  // namespace
}  // namespace recis::testing
