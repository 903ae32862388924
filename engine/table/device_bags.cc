#include "table/device_bags.h"

#include <utility>

namespace recis {
namespace {

size_t RunSumsBytes(int64_t n, DType accumulator, int64_t dim) {
  return static_cast<size_t>(SumArgs::RunsFor(n) * dim) * SizeOf(accumulator);
}

}  // namespace

Result<DeviceBags> DeviceBags::Make(std::shared_ptr<Device> device, const Bags& bags) {
  DeviceBags made;
  made.device_ = std::move(device);
  made.n_ = bags.positions();
  made.bags_ = bags.size();
  made.distinct_ = bags.distinct();
  made.device_->GoOnAt(StreamInUse());
  Result<DeviceMemory> memory = DeviceMemory::Get(
      made.device_, 2 * ArrayBytes<uint32_t>(made.n_) + ArrayBytes<uint32_t>(made.bags_ + 1));
  if (!memory.ok()) return memory.status();
  made.memory_ = std::move(memory.value());
  DeviceArrays arrays(made.memory_);
  const auto copy = [&](const uint32_t* from, int64_t n, uint32_t** to) {
    *to = arrays.Take<uint32_t>(n);
    return made.device_->space->Copy(*to, from, static_cast<size_t>(n) * sizeof(uint32_t),
                                     made.device_->stream);
  };
  const Buffer bag_of_each = bags.BagOfEach();
  RECIS_RETURN_IF_ERROR(copy(bags.inverse(), made.n_, &made.inverse_));
  RECIS_RETURN_IF_ERROR(copy(bag_of_each.as<uint32_t>(), made.n_, &made.bag_of_each_));
  RECIS_RETURN_IF_ERROR(copy(bags.offsets(), made.bags_ + 1, &made.offsets_));
  RECIS_RETURN_IF_ERROR(made.device_->space->Wait(made.device_->stream));  // what is sent goes
  return made;
}

Status DeviceBags::Sum(const void* embeddings, DType dtype, int64_t dim, const void* weights,
                       bool mean, void* out) const {
  device_->GoOnAt(StreamInUse());
  Result<DeviceMemory> run_sums =
      DeviceMemory::Get(device_, RunSumsBytes(n_, AccumulatorOf(dtype), dim));
  if (!run_sums.ok()) return run_sums.status();
  SegmentSumArgs sums{embeddings, dtype, dim, offsets_, inverse_, nullptr, nullptr, mean, 1, out};
  sums.weights = weights;
  return device_->kernels->Sum({sums, bag_of_each_, n_, bags_, nullptr, run_sums.value().data()},
                               device_->stream);
}

Status DeviceBags::Spread(const void* grads, DType dtype, int64_t dim, const void* weights,
                          bool mean, void* out) const {
  device_->GoOnAt(StreamInUse());
  const DType accumulator = AccumulatorOf(dtype);
  const auto scale_bytes = static_cast<int64_t>(SizeOf(accumulator)) * n_;
  const auto run_sums_bytes = static_cast<int64_t>(RunSumsBytes(n_, accumulator, dim));
  Result<DeviceMemory> memory = DeviceMemory::Get(
      device_, 4 * ArrayBytes<uint32_t>(n_) + ArrayBytes<uint32_t>(distinct_ + 1) +
                   ArrayBytes<std::byte>(scale_bytes) + ArrayBytes<std::byte>(run_sums_bytes));
  if (!memory.ok()) return memory.status();
  DeviceArrays arrays(memory.value());
  BagsArgs bags{inverse_, bag_of_each_, offsets_, n_, distinct_, weights, accumulator};
  bags.positions = arrays.Take<uint32_t>(n_);
  bags.sorted_numbers = arrays.Take<uint32_t>(n_);
  bags.sorted_positions = arrays.Take<uint32_t>(n_);
  bags.starts = arrays.Take<uint32_t>(distinct_ + 1);
  bags.places = arrays.Take<uint32_t>(n_);
  void* const scale = arrays.Take<std::byte>(scale_bytes);
  if (mean || weights != nullptr) bags.scale = scale;
  RECIS_RETURN_IF_ERROR(device_->kernels->SortBags(bags, device_->stream));

  SegmentSumArgs sums{grads, dtype, dim, bags.starts, bags.places, nullptr, nullptr, false, 1, out};
  sums.weights = bags.scale;
  return device_->kernels->Sum(
      {sums, bags.sorted_numbers, n_, distinct_, nullptr, arrays.Take<std::byte>(run_sums_bytes)},
      device_->stream);
}

}  // namespace recis
