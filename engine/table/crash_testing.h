// Two tables in a store whose content after every commit is known, to be run under faults.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "table/table_store_testing.h"

namespace recis::testing {

// Trains, inserts, evicts, spills, cleans, commits and reopens. What an epoch does follows from
// its number, and twins in memory do the same.
// Place: makes the tables.
template <class Place>
class StoreWorkload {
 public:
  static constexpr uint64_t kEpochs = 5;

  // Runs to the last epoch from whatever the store at `path` has. A call that fails has changed
  // nothing; it is made once more, or the store is opened again. `failures` counts them.
  static void Run(const std::string& path, const std::function<void(uint64_t)>& acknowledged,
                  int* failures = nullptr) {
    int ignored = 0;
    StoreWorkload workload(path, failures != nullptr ? failures : &ignored);
    workload.Open();
    while (workload.epoch_ < kEpochs) {
      if (!workload.RunEpoch()) {
        workload.Open();
        continue;
      }
      acknowledged(workload.epoch_);
      if (workload.epoch_ == 3) workload.Open();
    }
    EXPECT_LT(0, workload.most_cleaned_bytes_);
    workload.store_->Close();
  }

  // Opens the store and holds its content against the epoch it says it has. Returns that.
  static uint64_t Check(const std::string& path) {
    const auto store = Value(Store::Open(Options(path)));
    const uint64_t epoch = CheckContent(store);
    // Rows that were freed come back in the same order.
    Tables fresh = TwinsAt(epoch);
    for (const auto& [name, twin] : fresh) {
      Ids ids(40);
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(1000 + i);
      const auto table = Value(Place::Make(OptionsOf(name), store));
      Ok(Train(*table, ids, {}));
      Ok(Train(*twin, ids, {}));
      EXPECT(ContentOf(*table) == ContentOf(*twin), name, epoch);
    }
    store->Close();
    if (epoch < 2) return epoch;
    StoreOptions before = Options(path);
    before.log.read_only = true;
    before.log.epoch = epoch - 1;
    const auto reader = Value(Store::Open(before));
    CheckContent(reader);
    reader->Close();
    return epoch;
  }

 private:
  static constexpr int kCalls = 14;  // an epoch, of each table
  static constexpr int64_t kDim = 64, kBlockRows = 5;
  using Tables = std::map<std::string, std::shared_ptr<Table>>;

  StoreWorkload(std::string path, int* failures) : path_(std::move(path)), failures_(failures) {}

  static StoreOptions Options(const std::string& path) {
    StoreOptions options;
    options.log = At(path);
    options.log.transaction_bytes = 24 << 10;
    options.log.queue_bytes = 40 << 10;
    options.hot_bytes = 3 * kBlockRows * 3 * kDim * 4;  // three blocks with states, for two tables
    return options;
  }
  static TableOptions OptionsOf(const std::string& name) {
    return {.name = name,
            .dtype = DType::kFloat32,
            .shape = {kDim},
            .block_rows = kBlockRows,
            .draw = {.distribution = Distribution::kUniform, .shift = -1, .scale = 2, .seed = 5}};
  }
  // The second table comes later, and so do the states of both.
  static std::vector<std::string> NamesAt(uint64_t epoch) {
    if (epoch == 0) return {};
    return epoch == 1 ? std::vector<std::string>{"one"} : std::vector<std::string>{"one", "two"};
  }
  static std::string StateOf(uint64_t epoch) { return "state " + std::to_string(epoch); }

  // Content of all tables at an epoch, to start from: a run of twins up to there.
  static Tables TwinsAt(uint64_t epoch) {
    Tables twins;
    for (uint64_t e = 1; e <= epoch; ++e) {
      for (const std::string& name : NamesAt(e)) {
        std::shared_ptr<Table>& twin = twins[name];
        if (twin == nullptr) twin = Value(Table::Make(OptionsOf(name)));
        const std::vector<int> states = e == 1 ? std::vector<int>() : AddStates(*twin);
        CallsOf(e, name).Run(*twin, states, kCalls);
      }
    }
    return twins;
  }
  static Workload CallsOf(uint64_t epoch, const std::string& name) {
    return Workload(epoch * 10 + name.size() + static_cast<uint64_t>(name[0]));
  }

  static const std::map<std::string, Content>& Expected(uint64_t epoch) {
    static std::array<std::map<std::string, Content>, kEpochs + 1> contents;
    if (contents[epoch].empty()) {
      for (const auto& [name, twin] : TwinsAt(epoch)) contents[epoch][name] = ContentOf(*twin);
    }
    return contents[epoch];
  }

  static uint64_t CheckContent(const std::shared_ptr<Store>& store) {
    const std::optional<Epoch> current = store->log().Current();
    const uint64_t epoch = current ? current->epoch : 0;
    EXPECT_EQ(store->Tables().size(), NamesAt(epoch).size(), epoch);
    if (epoch != 0) {
      EXPECT_EQ(current->step, static_cast<int64_t>(epoch * 10));
      EXPECT_EQ(Value(store->State()), StateOf(epoch));
    }
    for (const auto& [name, content] : Expected(epoch)) {
      EXPECT(ContentOf(*Value(Place::Make(OptionsOf(name), store))) == content, name, epoch);
    }
    return epoch;
  }

  void Open() {
    if (store_ != nullptr) store_->Close();
    store_ = nullptr;
    for (int attempt = 0; store_ == nullptr; ++attempt) {
      auto store = Store::Open(Options(path_));
      if (store.ok()) {
        store_ = store.value();
      } else if (attempt == 0) {
        ++*failures_;
      } else {
        throw Failure{store.status().message()};
      }
    }
    epoch_ = CheckContent(store_);
  }

  // Makes a call, twice if need be. False if the store must be opened again; every second epoch
  // does so without being told to.
  bool Attempt(const std::function<Status()>& call) {
    Status status = call();
    if (status.ok()) return true;
    ++*failures_;
    if (epoch_ % 2 == 0) return false;
    status = call();
    if (!status.ok() && status.code() != Code::kUnavailable) throw Failure{status.message()};
    return status.ok();
  }

  bool RunEpoch() {
    const uint64_t epoch = epoch_ + 1;
    for (const std::string& name : NamesAt(epoch)) {
      const auto table = Value(Place::Make(OptionsOf(name), store_));
      std::vector<int> states;
      const auto add = [&]() -> Status {
        auto added = TryAddStates(*table);
        if (added.ok()) states = added.value();
        return added.status();
      };
      if (epoch > 1 && !Attempt(add)) return false;
      Workload calls = CallsOf(epoch, name);
      for (int i = 0; i < kCalls; ++i) {
        const Workload::Call call = calls.Next(kDim);
        const auto run = [&] { return Workload::Do(call, *table, states); };
        if (call.kind == Workload::Call::kRead) {
          Ok(run());  // whatever else fails
        } else if (!Attempt(run)) {
          return false;
        }
      }
    }
    const auto commit = [&] {
      return store_->Commit(static_cast<int64_t>(epoch * 10), StateOf(epoch)).status();
    };
    if (!Attempt(commit)) return false;
    most_cleaned_bytes_ = std::max(most_cleaned_bytes_, store_->Stats().cleaned_bytes);
    epoch_ = epoch;
    return true;
  }

  const std::string path_;
  int* const failures_;
  std::shared_ptr<Store> store_;
  uint64_t epoch_ = 0;
  int64_t most_cleaned_bytes_ = 0;
};

}  // namespace recis::testing
