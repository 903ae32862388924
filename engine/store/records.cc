#include "store/records.h"

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"

namespace recis {
namespace {
constexpr int64_t kGrain = 1024;  // rows below which threads do not pay
}

Status Records::Promote(const Row* rows, int64_t n) {
  if (!tier_) return {};
  tier_->Touch(rows, n);
  return Prefetch(rows, n, {});
}

Status Records::Prefetch(const Row* rows, int64_t n, const ColdReads& read) {
  if (tier_->all_hot()) return {};
  Result<int64_t> held = tier_->Hold(rows, n, Use::kRead, read);
  if (!held.ok()) return held.status();
  tier_->Release();
  Tidy();
  return {};
}

Status Records::Locate(const Row* rows, int64_t n, Sources* sources) const {
  if (tier_) return tier_->Locate(rows, n, sources);
  sources->pointers = BufferCache::Get(static_cast<size_t>(n) * sizeof(const std::byte*));
  auto* pointers = sources->pointers.as<const std::byte*>();
  std::transform(rows, rows + n, pointers, [this](Row row) -> const std::byte* {
    return row == kNoRow ? nullptr : arena_.At(row);
  });
  return {};
}

void Records::Free(Row row) {
  if (tier_) {
    tier_->Free(row);
  } else {
    std::memset(arena_.At(row), 0, layout_.record_bytes);
  }
}

void Records::Clear() {
  if (tier_) {
    tier_->Clear();
  } else {
    arena_ = Arena(layout_.record_bytes, arena_.block_rows());
  }
}

// In memory, one pass moves every record to an arena of wider ones. Address space for all of
// them is taken first, so that it cannot fail half way; pages are touched as records arrive,
// and each old slab goes back to the system once it is empty.
Status Records::ChangeLayout(RecordLayout layout, int64_t end,
                             const std::function<bool(Row)>& live) {
  if (tier_) {
    RECIS_RETURN_IF_ERROR(tier_->ChangeLayout(layout));
    layout_ = std::move(layout);
    return {};
  }
  Arena arena(layout.record_bytes, arena_.block_rows());
  RECIS_RETURN_IF_ERROR(arena.Reserve(end));
  const size_t kept = layout_.used_bytes;
  const int64_t step = arena_.slab_rows();
  for (int64_t first = 0; first < end; first += step) {
    const int64_t count = std::min(step, end - first);
    ParallelFor(count, kGrain, [&](int64_t begin, int64_t chunk_end) {
      for (int64_t i = first + begin; i < first + chunk_end; ++i) {
        const Row row = static_cast<Row>(i);
        if (!live(row)) continue;
        std::byte* record = arena.At(row);
        std::memcpy(record, layout.new_record.data(), layout.record_bytes);
        std::memcpy(record, arena_.At(row), kept);
      }
    });
    arena_.ReleaseSlab(static_cast<size_t>(first / step));
  }
  arena_ = std::move(arena);
  layout_ = std::move(layout);
  return {};
}

}  // namespace recis
