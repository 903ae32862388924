#include "hot/arena.h"

#include <algorithm>

namespace recis {
namespace {
constexpr size_t kSlabBytes = size_t{4} << 20;
}

Arena::Arena(size_t record_bytes, int64_t block_rows)
    : record_bytes_(record_bytes), block_rows_(block_rows) {
  const size_t block_bytes = record_bytes * static_cast<size_t>(block_rows);
  const size_t blocks = std::max<size_t>(kSlabBytes / block_bytes, 1);
  // A slab of one row would need the inverse of one, which does not fit.
  slab_rows_ = static_cast<uint32_t>(std::max<size_t>(blocks * block_rows, 2));
  slab_inverse_ = ~uint64_t{0} / slab_rows_ + 1;
}

Status Arena::Reserve(int64_t rows) {
  while (reserved_rows() < rows) {
    Result<Slab> slab = Slab::Map(slab_rows_ * record_bytes_);
    if (!slab.ok()) return slab.status();
    slabs_.push_back(std::make_shared<Slab>(std::move(slab.value())));
    bases_.push_back(slabs_.back()->data());
  }
  return {};
}

void Arena::Shrink(int64_t rows) {
  while (reserved_rows() - slab_rows_ >= rows) {
    slabs_.pop_back();
    bases_.pop_back();
  }
  if (reserved_rows() > rows) slabs_.back()->Discard((rows % slab_rows_) * record_bytes_);
}

}  // namespace recis
