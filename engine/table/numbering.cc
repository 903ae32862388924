#include "table/numbering.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace recis {

void Numbering::Resize(int64_t capacity) {
  capacity_ =
      static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(capacity, 16))));
  const uint64_t places = 2 * static_cast<uint64_t>(capacity_);
  place_mask_ = places - 1;
  places_ = BufferCache::Get(places * sizeof(uint64_t));
  std::memset(places_.data(), 0, places * sizeof(uint64_t));
  const Buffer old = std::exchange(ids_, BufferCache::Get(capacity_ * sizeof(int64_t)));
  const int64_t count = std::exchange(size_, 0);
  for (int64_t i = 0; i < count; ++i) Number(old.as<int64_t>()[i]);
}

Buffer Numbering::TakeIds() {
  Buffer ids = std::move(ids_);
  ids_ = Buffer();
  size_ = 0;
  capacity_ = 0;
  return ids;
}

}  // namespace recis
