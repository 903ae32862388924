// Rows that come to the device before they are looked up, and the lookup that then need not wait.

#include <utility>

#include "table/cached_table.h"

namespace recis {

Status Prefetched::CopyToHost() {
  std::call_once(copying_, [&] { copied_ = batch_->CopyToHost(stream_); });
  return copied_;
}

Result<std::shared_ptr<Prefetched>> CachedTable::Prefetch(const int64_t* ids, int64_t n) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  Result<std::shared_ptr<CachedBatch>> found = StartFinding(ids, n, nullptr);
  if (!found.ok()) return found.status();
  RECIS_RETURN_IF_ERROR(device_->space->Order(device_->stream, device_->copy_stream));
  const std::shared_ptr<Prefetched> prefetched(
      new Prefetched(std::move(found.value()), device_->copy_stream));
  store_->InBackground(
      [self = shared_from_this(), prefetched] { self->PrefetchRows(*prefetched); });
  return prefetched;
}

CachedBatch& CachedTable::PlacedBatch(Prefetched& prefetched) const {
  if (!prefetched.placed_) TellPlaces(*prefetched.batch_);
  prefetched.placed_ = true;
  return *prefetched.batch_;
}

// What fails here will fail again, and be told, when the ids are looked up.
void CachedTable::PrefetchRows(Prefetched& prefetched) {
  if (!prefetched.CopyToHost().ok()) return;
  std::vector<int64_t> wanted;
  {
    const Lock lock(*this, OnOwnStream::For::kBackground);
    if (!Changeable().ok()) return;
    const CachedBatch& batch = PlacedBatch(prefetched);
    wanted = IdsOf(batch, NotCached(batch));
  }
  if (wanted.empty()) return;
  table_->PrefetchIds(wanted);  // others go on while the disk is read
  const Lock lock(*this, OnOwnStream::For::kBackground);
  if (prefetched.looked_up_ || !Changeable().ok()) return;
  CachedBatch& batch = PlacedBatch(prefetched);
  if (!Refresh(batch).ok()) return;
  std::vector<Frame> kept;
  AddFrames(batch, &kept);
  for (const Row row : used_) {
    const Frame frame = cache_.rows().FrameOf(row);
    if (frame != CachedRows::kNoFrame) kept.push_back(frame);
  }
  const Indices to_come = NotCached(batch);
  FindInTable(batch, to_come);
  (void)cache_.Promote(RowsOf(batch, to_come), kept);
  (void)Refresh(batch);
}

Result<std::shared_ptr<CachedBatch>> CachedTable::Lookup(Prefetched& prefetched,
                                                         AdmissionPolicy* policy, std::byte* out) {
  const Lock lock(*this);
  RECIS_RETURN_IF_ERROR(Changeable());
  if (prefetched.looked_up_) {
    return InvalidArgument("table '" + options().name +
                           "': these prefetched ids were looked up already: prefetch them again");
  }
  RECIS_RETURN_IF_ERROR(prefetched.CopyToHost());
  prefetched.looked_up_ = true;
  CachedBatch& batch = PlacedBatch(prefetched);
  RECIS_RETURN_IF_ERROR(Refresh(batch));
  RECIS_RETURN_IF_ERROR(Answer(batch, policy, out));
  return prefetched.batch_;
}

}  // namespace recis
