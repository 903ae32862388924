// What do lookups and training steps of a table on a device cost, without Python?
//
//   device_table_bench OUT.json [cuda | emulated] [rows] [ids] [dim]
//
// The setting is that of benchmarks/gpu.py, and OUT.json has the form of its results.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/thread_pool.h"
#include "table/device_table.h"

namespace recis {
namespace {

constexpr int kWarm = 3, kRounds = 15, kBatches = 4;
constexpr int64_t kFilledAtOnce = 1 << 20;

void Check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "device_table_bench: %s\n", status.message().c_str());
  std::exit(1);
}
template <class T>
T Value(Result<T> result) {
  Check(result.status());
  return std::move(result.value());
}

struct Spread {
  explicit Spread(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    median = values[values.size() / 2], low = values.front(), high = values.back();
  }
  std::string Json() const {
    std::ostringstream out;
    out << "{\"median\": " << median << ", \"low\": " << low << ", \"high\": " << high << "}";
    return out.str();
  }
  double median, low, high;
};

int64_t IdOfRank(int64_t rank) { return static_cast<int64_t>(MixId(rank)); }

// Ranks by Zipf's law with exponent 1: below r with probability log(r) / log(rows).
std::vector<int64_t> ZipfIds(int64_t rows, int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> draw(0, std::log(static_cast<double>(rows)));
  std::vector<int64_t> ids(n);
  for (int64_t& id : ids) id = IdOfRank(static_cast<int64_t>(std::exp(draw(random))));
  return ids;
}

class Bench {
 public:
  Bench(std::shared_ptr<Device> device, int64_t rows, int64_t n, int64_t dim)
      : device_(std::move(device)), n_(n), out_(Get(n * dim * sizeof(float))) {
    DrawArgs draw{};
    draw.distribution = Distribution::kConstant;
    table_ = Value(DeviceTable::Make({"bench", DType::kFloat32, {dim}, 1024, draw}, device_));
    for (const char* name : {"exp_avg", "exp_avg_sq"}) {
      Slot slot;
      slot.name = name;
      slot.shape = {dim};
      states_.push_back(Value(table_->AddSlot(slot)));
    }
    Check(device_->space->Fill(out_.data(), 0, out_.bytes(), device_->stream));
    for (int64_t first = 0; first < rows; first += kFilledAtOnce) {
      std::vector<int64_t> ids(std::min(kFilledAtOnce, rows - first));
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = IdOfRank(first + i + 1);
      const DeviceMemory there = There(ids);
      const DeviceMemory embeddings = Get(ids.size() * dim * sizeof(float));
      Value(
          table_->Lookup(Ids(there), static_cast<int64_t>(ids.size()), nullptr, embeddings.data()));
    }
    for (int i = 0; i < kBatches; ++i) batches_.push_back(There(ZipfIds(rows, n, i)));
  }

  Spread Reads() {
    return Timed([&](const int64_t* ids) { Check(table_->Read(ids, n_, out_.data())); });
  }
  // Of whole steps the host waits for the last one alone.
  Spread Steps() {
    return Timed([&](const int64_t* ids) { Train(ids); }, kBatches);
  }

 private:
  DeviceMemory Get(size_t bytes) { return Value(DeviceMemory::Get(device_, bytes)); }
  DeviceMemory There(const std::vector<int64_t>& ids) {
    DeviceMemory memory = Get(ids.size() * sizeof(int64_t));
    Check(device_->space->Copy(memory.data(), ids.data(), memory.bytes(), device_->stream));
    Check(device_->space->Wait(device_->stream));
    return memory;
  }
  static const int64_t* Ids(const DeviceMemory& memory) {
    return reinterpret_cast<const int64_t*>(memory.data());
  }

  void Train(const int64_t* ids) {
    const auto batch = Value(table_->Lookup(ids, n_, nullptr, out_.data()));
    // What the lookup gave stands for a gradient.
    Check(table_->Accumulate(*batch, out_.data(), DType::kFloat32, /*mean=*/false, 1));
    Check(table_->Step(
        {.rule = Rule::kAdam, .step_size = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8},
        states_));
    Check(table_->ClearGradient());
  }

  // Milliseconds of one call, of `together` between two waits.
  Spread Timed(const std::function<void(const int64_t*)>& call, int together = 1) {
    std::vector<double> ms;
    for (int round = 0; round < kWarm + kRounds; ++round) {
      Check(device_->space->Wait(device_->stream));
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < together; ++i) call(Ids(batches_[(round + i) % kBatches]));
      Check(device_->space->Wait(device_->stream));
      const std::chrono::duration<double, std::milli> taken =
          std::chrono::steady_clock::now() - start;
      if (round >= kWarm) ms.push_back(taken.count() / together);
    }
    return Spread(std::move(ms));
  }

  const std::shared_ptr<Device> device_;
  const int64_t n_;
  DeviceMemory out_;
  std::shared_ptr<DeviceTable> table_;
  std::vector<int> states_;
  std::vector<DeviceMemory> batches_;
};

std::string Goal(const std::string& what, double at_most, const Spread& got) {
  std::ostringstream out;
  out << "{\"goal\": \"" << what << "\", \"wanted\": \"<= " << at_most
      << "\", \"got\": " << got.Json() << ", \"verdict\": \""
      << (got.median <= at_most ? "met" : "MISSED") << "\"}";
  return out.str();
}

int Main(int argc, char** argv) {
  const auto argument = [&](int i, int64_t otherwise) {
    return argc > i ? std::atoll(argv[i]) : otherwise;
  };
  if (argc < 2) {
    std::fprintf(stderr, "device_table_bench OUT.json [cuda | emulated] [rows] [ids] [dim]\n");
    return 2;
  }
  const bool emulated = argc > 2 && std::string(argv[2]) == "emulated";
  const int64_t rows = argument(3, 10'000'000), n = argument(4, 1 << 20), dim = argument(5, 128);
  const auto device = emulated ? EmulatedDevice() : Value(CudaDevice(0));
  Bench bench(device, rows, n, dim);
  const Spread reads = bench.Reads(), steps = bench.Steps();
  std::ofstream out(argv[1]);
  out << "{\"setting\": \"the engine alone on " << device->space->name() << ": " << rows
      << " rows, " << n << " ids a call, dim " << dim << ", Adam\",\n \"rows\": [{\"what\": "
      << "\"lookup without training\", \"ms\": " << reads.Json()
      << "},\n  {\"what\": \"step: lookup, gradient, Adam\", \"ms\": " << steps.Json()
      << "}],\n \"goals\": [" << Goal("ms a lookup: 2 G ids/s", static_cast<double>(n) / 2e6, reads)
      << ",\n  " << Goal("ms a step, dynamicemb published", 2.19, steps) << ",\n  "
      << Goal("ms a step, TorchRec published", 1.35, steps) << "],\n \"notes\": []}\n";
  return out.good() ? 0 : 1;
}

}  // namespace
}  // namespace recis

int main(int argc, char** argv) { return recis::Main(argc, argv); }
