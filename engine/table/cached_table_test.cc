// A table in a store with records on a device, against its twin in a store with all of them in
// memory: the same bits after every call, whatever there is room for.

#include "table/cached_table.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "device/late_device_testing.h"
#include "table/device_table_testing.h"
#include "table/table_store_testing.h"

namespace recis::testing {
namespace {

struct ContentOfCut {
  explicit ContentOfCut(const Cut& cut) : deleted(cut.deleted()) {
    std::vector<RowOfId> rows;
    Ok(cut.List(1, 0, 1, &rows));
    std::vector<std::byte*> addresses;
    for (const RowOfId& row : rows) ids.push_back(row.id);
    for (const Slot& slot : cut.slots()) slots.emplace_back(rows.size() * slot.bytes());
    for (Bytes& slot : slots) addresses.push_back(slot.data());
    Ok(cut.Gather(rows.data(), static_cast<int64_t>(rows.size()), addresses));
  }
  bool operator==(const ContentOfCut&) const = default;

  Ids ids, deleted;
  std::vector<Bytes> slots;
};

// Both in stores of their own, which are committed, closed and opened together; and cut.
class StoredPair {
 public:
  // `blocks` of records on the device, one at least, and in the host's memory.
  StoredPair(const Setting& setting, const std::shared_ptr<Device>& device, uint64_t seed,
             int64_t blocks, int64_t host_blocks)
      : options_(OptionsOf(setting, seed)),
        device_(device),
        // Of records with all slots that are ever added.
        block_bytes_(5 * static_cast<int64_t>(4 * 8 * setting.dim + 16 + 64)),
        blocks_(blocks),
        host_blocks_(host_blocks),
        pair_(setting, device_, seed) {
    OpenStores();
  }
  ~StoredPair() { CloseStores(); }

  void Run(int calls) {
    for (int i = 0; i < calls; ++i) {
      pair_.Call(cut_ != nullptr);
      auto& random = pair_.random();
      if (random() % 6 == 0) pair_.Compare();
      if (random() % 10 == 0) Commit();
      if (random() % 4 == 0) Prefetch();
      if (random() % 8 == 0) cut_ ? EndCut() : BeginCut();
      if (random() % 25 == 0) {
        CloseStores();
        OpenStores();  // what was not committed is lost
        pair_.Compare();
      }
    }
    pair_.Compare();
  }

 private:
  void OpenStores() {
    twin_store_ = Open(twin_directory_.path(), int64_t{1} << 40);
    store_ = Open(directory_.path(), host_blocks_ * block_bytes_);
    pair_.Use(Value(Table::Make(options_, twin_store_)),
              Value(CachedTable::Make(options_, store_, device_, blocks_ * block_bytes_)));
  }
  void CloseStores() {
    twin_cut_.reset();
    cut_.reset();
    tracked_ = false;
    twin_store_->Close();
    store_->Close();
  }
  void Commit() {
    ++step_;
    Ok(twin_store_->Commit(step_, "").status());
    Ok(store_->Commit(step_, "").status());
  }

  // Whose rows come at any time from now on.
  void Prefetch() {
    Ids ids(40);
    for (int64_t& id : ids) id = static_cast<int64_t>(pair_.random()() % 100) - 20;
    OnDevice<int64_t> there(device_, ids);
    const auto prefetched = Value(pair_.on_device().Prefetch(there.data(), Size(ids)));
    pair_.TrainNext({ids, [this, prefetched](AdmissionPolicy* policy, std::byte* out) {
                       return pair_.on_device().Lookup(*prefetched, policy, out);
                     }});
  }

  void BeginCut() {
    const bool delta = tracked_ && pair_.random()() % 2 == 0;
    twin_cut_ = Value(pair_.table().TakeCut(delta, 1 << 24));
    cut_ = Value(pair_.on_device().TakeCut(delta, 1 << 24));
    content_of_cut_.emplace(*twin_cut_);
    EXPECT(ContentOfCut(*cut_) == *content_of_cut_);
    Ok(pair_.table().Track(true));
    Ok(pair_.on_device().Track(true));
    tracked_ = true;
  }
  void EndCut() {
    EXPECT(ContentOfCut(*cut_) == *content_of_cut_);
    const bool saved = pair_.random()() % 2 == 0;
    for (std::shared_ptr<Cut>& cut : {std::ref(cut_), std::ref(twin_cut_)}) {
      saved ? cut->Close() : cut->Abandon();
      cut.reset();
    }
  }

  const TableOptions options_;
  const std::shared_ptr<Device> device_;
  const int64_t block_bytes_, blocks_, host_blocks_;
  const TemporaryDirectory twin_directory_, directory_;
  std::shared_ptr<Store> twin_store_, store_;
  std::shared_ptr<Cut> twin_cut_, cut_;
  std::optional<ContentOfCut> content_of_cut_;
  bool tracked_ = false;
  int64_t step_ = 0;
  Pair<CachedTable> pair_;
};

const std::vector<RuleParams> kRules = {
    {.rule = Rule::kSgd, .step_size = 0.1, .momentum = 0.9, .divisor = 3, .nesterov = true},
    {.rule = Rule::kAdagrad, .step_size = 0.1, .eps = 1e-8},
    {.rule = Rule::kRowWiseAdagrad, .step_size = 0.1, .weight_decay = 0.1, .eps = 1e-8},
    {.rule = Rule::kAdam,
     .step_size = 0.1,
     .decay = 0.99,
     .beta1 = 0.9,
     .beta2 = 0.99,
     .eps = 1e-8,
     .amsgrad = true},
};

TEST(AnyBudgetOnTheDeviceHasTheResultsOfMemory) {
  SetThreadCount(4);
  uint64_t seed = 0;
  for (const int64_t blocks : {0, 1, 2, 4, 1000}) {
    for (const RuleParams& params : kRules) {
      ++seed;
      const DType dtype = std::vector{DType::kFloat32, DType::kFloat16, DType::kFloat64}[seed % 3];
      const auto host_blocks = static_cast<int64_t>(seed % 2 == 0 ? 1 : 1000);
      StoredPair({.dtype = dtype, .dim = 3, .params = params}, EmulatedDevice(), seed, blocks,
                 host_blocks)
          .Run(100);
    }
  }
  for (const DType dtype : {DType::kInt8, DType::kInt64}) {
    StoredPair({.dtype = dtype, .distribution = Distribution::kConstant}, EmulatedDevice(), ++seed,
               4, 4)
        .Run(100);
  }
}

TEST(AnyBudgetHasThoseResultsOnALateDevice) {
  uint64_t seed = 0;
  for (const int64_t blocks : {0, 2, 4, 1000}) {
    for (const RuleParams& params : kRules) {
      ++seed;
      StoredPair({.dim = 3, .params = params, .streams = 3}, LateDevice(seed), seed, blocks, 2)
          .Run(50);
    }
  }
}

// Where there is one.
TEST(AGpuHasThoseResultsForAnyBudget) {
  uint64_t seed = 0;
  for (const int64_t blocks : {0, 2, 1000}) {
    if (auto device = CudaDevice(0); device.ok()) {
      ++seed;
      StoredPair({.dim = 3, .params = kRules[seed]}, device.value(), seed, blocks, 2).Run(100);
    }
  }
}

TEST(AnyBudgetHasThoseResultsWithOneThreadALane) {
  for (const int64_t blocks : {0, 2}) {
    StoredPair({.dim = 19, .params = kRules[2], .ids = 12, .range = 20},
               EmulatedDevice(LanesKernels()), 3, blocks, 2)
        .Run(12);
  }
}

}  // namespace
}  // namespace recis::testing
