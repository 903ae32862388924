// An array that grows by chunks, which are never moved or copied. New elements are zeros.
//
// Threads: as an array; Reserve() while no other thread uses it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"
#include "device/memory.h"

namespace recis {

template <class T>
class Chunks {
 public:
  // Makes elements [0, size) usable.
  Status Reserve(int64_t size) {
    while (static_cast<int64_t>(chunks_.size()) << kBits < size) {
      Result<Slab> chunk = Slab::Map(sizeof(T) << kBits);
      if (!chunk.ok()) return chunk.status();
      chunks_.push_back(std::move(chunk.value()));
    }
    return {};
  }
  void Clear() { chunks_.clear(); }

  T& operator[](uint32_t i) const {
    return reinterpret_cast<T*>(chunks_[i >> kBits].data())[i & kMask];
  }

 private:
  static constexpr int kBits = 16;
  static constexpr uint32_t kMask = (uint32_t{1} << kBits) - 1;

  std::vector<Slab> chunks_;
};

}  // namespace recis
