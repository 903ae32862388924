// Rows of ids whose embeddings are made into one each: which embedding each id has, and where
// each row ("bag") begins.
//
// Threads: immutable once made; the sums of a call are written by the pool.
// Invariants: each sum is over its ids in their order, so it does not depend on the thread count.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/status.h"
#include "device/memory.h"

namespace recis {

class Bags {
 public:
  // `inverse` (n) are places in [0, distinct), `offsets` (bags + 1) rise from 0 to n.
  static Result<Bags> Make(const int64_t* inverse, int64_t n, const int64_t* offsets, int64_t bags,
                           int64_t distinct);

  // The sum, or the mean, of each bag's embeddings, each multiplied by its id's weight.
  //   embeddings  (distinct, dim) of `dtype`
  //   weights     (n) accumulators; null: ones. A mean takes none.
  //   out         (bags, dim) accumulators
  void Sum(const void* embeddings, DType dtype, int64_t dim, const void* weights, bool mean,
           void* out) const;
  // The gradient of the embeddings, (distinct, dim) accumulators, from that of the sums or means,
  // (bags, dim) of `dtype`.
  void Spread(const void* grads, DType dtype, int64_t dim, const void* weights, bool mean,
              void* out) const;

  int64_t positions() const { return n_; }
  int64_t size() const { return bags_; }
  int64_t distinct() const { return distinct_; }
  const uint32_t* inverse() const { return inverse_.as<uint32_t>(); }
  const uint32_t* offsets() const { return offsets_.as<uint32_t>(); }
  // The bag of each position, uint32 (n).
  Buffer BagOfEach() const;

 private:
  Bags() = default;

  int64_t n_ = 0;
  int64_t bags_ = 0;
  int64_t distinct_ = 0;
  Buffer inverse_;  // uint32 (n)
  Buffer offsets_;  // uint32 (bags + 1)
};

}  // namespace recis
