#include "table/bags.h"

#include <algorithm>
#include <limits>
#include <string>

#include "device/kernels.h"
#include "table/batch.h"
#include "table/segments.h"

namespace recis {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// What each position of a gradient's sums is multiplied by: its id's weight, or one over the ids
// of its bag.
template <class S>
Buffer WeightsInOrder(const Occurrences& order, const uint32_t* bags, const uint32_t* offsets,
                      int64_t n, const S* weights) {
  Buffer out = BufferCache::Get(static_cast<size_t>(n) * sizeof(S));
  for (int64_t k = 0; k < n; ++k) {
    const uint32_t position = order.order()[k], bag = bags[position];
    out.as<S>()[k] = weights != nullptr ? weights[position]
                                        : S{1} / static_cast<S>(offsets[bag + 1] - offsets[bag]);
  }
  return out;
}

}  // namespace

Result<Bags> Bags::Make(const int64_t* inverse, int64_t n, const int64_t* offsets, int64_t bags,
                        int64_t distinct) {
  if (n > kMost || bags > kMost || distinct > kMost) {
    return Full("expected at most 2^31 - 1 ids and rows of ids a call, found " + std::to_string(n) +
                " in " + std::to_string(bags) + " rows");
  }
  if (bags < 0) return OutOfRange("expected offsets that begin with 0, found none");
  Bags made;
  made.n_ = n;
  made.bags_ = bags;
  made.distinct_ = distinct;
  made.inverse_ = BufferCache::Get(static_cast<size_t>(n) * sizeof(uint32_t));
  made.offsets_ = BufferCache::Get(static_cast<size_t>(bags + 1) * sizeof(uint32_t));
  bool within = offsets[0] == 0 && offsets[bags] == n;
  for (int64_t i = 0; i < n; ++i) {
    within &= inverse[i] >= 0 && inverse[i] < distinct;
    made.inverse_.as<uint32_t>()[i] = static_cast<uint32_t>(inverse[i]);
  }
  for (int64_t i = 0; i <= bags; ++i) {
    within &= i == 0 || offsets[i - 1] <= offsets[i];
    made.offsets_.as<uint32_t>()[i] = static_cast<uint32_t>(offsets[i]);
  }
  if (!within) {
    return OutOfRange("expected places in [0, " + std::to_string(distinct) +
                      ") and offsets that rise from 0 to " + std::to_string(n));
  }
  return made;
}

void Bags::Sum(const void* embeddings, DType dtype, int64_t dim, const void* weights, bool mean,
               void* out) const {
  SegmentSumArgs args{embeddings, dtype, dim, offsets(), inverse(), nullptr, nullptr, mean, 1, out};
  args.weights = weights;
  SumInParallel(args, bags_);
}

void Bags::Spread(const void* grads, DType dtype, int64_t dim, const void* weights, bool mean,
                  void* out) const {
  const Buffer bag_buffer = BagOfEach();
  const uint32_t* bags = bag_buffer.as<uint32_t>();
  const Occurrences order(inverse(), n_, distinct_);
  Buffer scale;
  if (mean || weights != nullptr) {
    scale = dtype == DType::kFloat64
                ? WeightsInOrder(order, bags, offsets(), n_, static_cast<const double*>(weights))
                : WeightsInOrder(order, bags, offsets(), n_, static_cast<const float*>(weights));
  }
  Buffer place_buffer = BufferCache::Get(static_cast<size_t>(n_) * sizeof(uint32_t));
  uint32_t* places = place_buffer.as<uint32_t>();
  for (int64_t k = 0; k < n_; ++k) places[k] = bags[order.order()[k]];
  SegmentSumArgs args{grads, dtype, dim, order.starts(), places, nullptr, nullptr, false, 1, out};
  args.weights = scale.data();
  SumInParallel(args, distinct_);
}

Buffer Bags::BagOfEach() const {
  Buffer bags = BufferCache::Get(static_cast<size_t>(n_) * sizeof(uint32_t));
  for (int64_t bag = 0; bag < bags_; ++bag) {
    std::fill(bags.as<uint32_t>() + offsets()[bag], bags.as<uint32_t>() + offsets()[bag + 1],
              static_cast<uint32_t>(bag));
  }
  return bags;
}

}  // namespace recis
