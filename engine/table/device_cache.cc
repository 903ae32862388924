#include "table/device_cache.h"

#include <algorithm>
#include <cstring>

namespace recis {
namespace {
constexpr size_t kStagingBytes = size_t{8} << 20;  // so many that the bus is hardly ever idle
}

Result<DeviceCache::Frames> DeviceCache::FramesFor(const std::vector<Slot>& slots) const {
  Frames frames;
  for (const Slot& slot : slots) RECIS_RETURN_IF_ERROR(frames.schema.Add(slot).status());
  const auto block_bytes =
      static_cast<int64_t>(frames.schema.record_bytes()) * host_->options().block_rows;
  frames.capacity = std::max<int64_t>(bytes_ / block_bytes, 1) * host_->options().block_rows;
  Result<std::shared_ptr<DeviceTable>> table =
      DeviceTable::Make(host_->options(), device_, frames.capacity);
  if (!table.ok()) return table.status();
  frames.table = std::move(table.value());
  for (size_t i = 1; i < slots.size(); ++i) {
    RECIS_RETURN_IF_ERROR(frames.table->AddSlot(slots[i]).status());
  }
  const size_t least = Staging::BytesFor(2 * frames.schema.record_bytes());
  Result<std::unique_ptr<Staging>> staging = Staging::Make(device_, std::max(kStagingBytes, least));
  if (!staging.ok()) return staging.status();
  frames.staging = std::move(staging.value());
  return frames;
}

void DeviceCache::Use(Frames frames) {
  frames_ = std::move(frames);
  rows_ = CachedRows(frames_.capacity);
  ++moves_;
}

// ---- to the device ------------------------------------------------------------------------

Status DeviceCache::Promote(std::vector<RowOfId> wanted, const std::vector<Frame>& kept) {
  std::erase_if(wanted, [&](const RowOfId& each) { return pending_in_table_.Has(each.row); });
  const auto most = std::min(static_cast<int64_t>(wanted.size()), rows_.capacity());
  if (most > rows_.room()) {
    RECIS_RETURN_IF_ERROR(Drop(rows_.Coldest(most - rows_.room(), kept)));
  }
  const int64_t count = std::min(most, rows_.room());
  int64_t end = 0;
  for (int64_t i = 0; i < count; ++i) end = std::max(end, int64_t{wanted[i].row} + 1);
  RECIS_RETURN_IF_ERROR(rows_.Reserve(end));
  for (int64_t first = 0; first < count; first += PieceRows()) {
    RECIS_RETURN_IF_ERROR(
        PromotePiece(wanted.data() + first, std::min(PieceRows(), count - first)));
  }
  return {};
}

Status DeviceCache::PromotePiece(const RowOfId* wanted, int64_t n) {
  const size_t bytes = schema().record_bytes();
  staging().Clear();
  const auto ids = staging().Take<int64_t>(n);
  const auto records = staging().Take<std::byte>(n * static_cast<int64_t>(bytes));
  for (int64_t i = 0; i < n; ++i) ids.host[i] = wanted[i].row;
  RECIS_RETURN_IF_ERROR(host_->ReadRecords(ids.host, n, records.host));
  for (int64_t i = 0; i < n; ++i) ids.host[i] = wanted[i].id;
  RECIS_RETURN_IF_ERROR(staging().ToDevice());
  Result<std::shared_ptr<DeviceBatch>> made = table().RestoreRecords(ids.device, n, records.device);
  if (!made.ok()) return made.status();
  std::vector<Frame> frames(static_cast<size_t>(n));
  RECIS_RETURN_IF_ERROR(
      device_->Fetch(made.value()->rows, frames.size() * sizeof(Frame), frames.data()));
  for (int64_t i = 0; i < n; ++i) rows_.Add(frames[i], wanted[i].id, wanted[i].row);
  stats_.promotes += n;
  ++moves_;
  return {};
}

// ---- back to the table ----------------------------------------------------------------------

Status DeviceCache::WriteBack(const std::vector<Frame>& frames) {
  std::vector<Frame> dirty;
  for (const Frame frame : frames) {
    if (rows_.dirty(frame)) dirty.push_back(frame);
  }
  const auto count = static_cast<int64_t>(dirty.size());
  for (int64_t first = 0; first < count; first += PieceRows()) {
    RECIS_RETURN_IF_ERROR(
        WriteBackPiece(dirty.data() + first, std::min(PieceRows(), count - first)));
  }
  return {};
}

Status DeviceCache::WriteBackPiece(const Frame* frames, int64_t n) {
  staging().Clear();
  const auto rows = staging().Take<int64_t>(n);
  for (int64_t i = 0; i < n; ++i) rows.host[i] = frames[i];
  RECIS_RETURN_IF_ERROR(staging().ToDevice());
  const int64_t bytes = n * static_cast<int64_t>(schema().record_bytes());
  const auto records = staging().Take<std::byte>(bytes);
  RECIS_RETURN_IF_ERROR(table().ReadRecords(rows.device, n, records.device));
  RECIS_RETURN_IF_ERROR(staging().ToHost(records, bytes));
  for (int64_t i = 0; i < n; ++i) rows.host[i] = rows_.At(frames[i]).row;
  RECIS_RETURN_IF_ERROR(host_->WriteRecords(rows.host, n, records.host));
  for (int64_t i = 0; i < n; ++i) rows_.MarkClean(frames[i]);
  stats_.write_backs += n;
  return {};
}

Status DeviceCache::Drop(const std::vector<Frame>& frames) {
  Gradient gradient;
  if (std::any_of(frames.begin(), frames.end(),
                  [&](Frame frame) { return rows_.pending(frame); })) {
    Result<Gradient> read = ReadGradient(1);
    if (!read.ok()) return read.status();
    gradient = std::move(read.value());
  }
  const auto count = static_cast<int64_t>(frames.size());
  for (int64_t first = 0; first < count; first += PieceRows()) {
    RECIS_RETURN_IF_ERROR(
        DropPiece(frames.data() + first, std::min(PieceRows(), count - first), gradient));
  }
  return {};
}

Status DeviceCache::DropPiece(const Frame* frames, int64_t n, const Gradient& gradient) {
  std::vector<Frame> dirty;
  for (int64_t i = 0; i < n; ++i) {
    if (rows_.dirty(frames[i])) dirty.push_back(frames[i]);
  }
  RECIS_RETURN_IF_ERROR(WriteBack(dirty));
  std::vector<int64_t> rows;  // that take a gradient along
  std::vector<std::byte> sums;
  const size_t bytes = SizeOf(AccumulatorOf(host_->options().dtype)) *
                       static_cast<size_t>(schema().slots()[0].count);
  staging().Clear();
  const auto ids = staging().Take<int64_t>(n);
  for (int64_t i = 0; i < n; ++i) {
    const CachedRows::Entry& entry = rows_.At(frames[i]);
    ids.host[i] = entry.id;
    if (!rows_.pending(frames[i])) continue;
    const auto found =
        std::lower_bound(gradient.frames.begin(), gradient.frames.end(), int64_t{frames[i]});
    RECIS_CHECK(found != gradient.frames.end() && *found == frames[i]);
    const std::byte* sum = gradient.sums.data() + (found - gradient.frames.begin()) * bytes;
    rows.push_back(entry.row);
    sums.insert(sums.end(), sum, sum + bytes);
  }
  RECIS_RETURN_IF_ERROR(staging().ToDevice());
  RECIS_RETURN_IF_ERROR(table().Evict(ids.device, n).status());
  for (int64_t i = 0; i < n; ++i) rows_.Remove(frames[i]);
  stats_.spills += n;
  stats_.drops += n - static_cast<int64_t>(dirty.size());
  ++moves_;
  for (const int64_t row : rows) pending_in_table_.Add(static_cast<Row>(row));
  if (rows.empty()) return {};
  return host_->AccumulateRows(rows.data(), static_cast<int64_t>(rows.size()), sums.data(),
                               AccumulatorOf(host_->options().dtype));
}

// ---- training -------------------------------------------------------------------------------

Status DeviceCache::Step(const RuleParams& params, const std::vector<int>& states) {
  RECIS_RETURN_IF_ERROR(table().Step(params, states));
  rows_.MarkStepped();
  return {};
}

Status DeviceCache::ClearGradient() {
  RECIS_RETURN_IF_ERROR(table().ClearGradient());
  rows_.ClearPending();
  pending_in_table_ = RowSet();
  return {};
}

Result<DeviceCache::Gradient> DeviceCache::ReadGradient(double divisor) const {
  Result<int64_t> entries = table().GradientRows();
  if (!entries.ok()) return entries.status();
  const int64_t n = entries.value();
  const size_t bytes = SizeOf(AccumulatorOf(host_->options().dtype)) *
                       static_cast<size_t>(schema().slots()[0].count) * static_cast<size_t>(n);
  Result<DeviceMemory> memory = DeviceMemory::Get(device_, ArrayBytes<int64_t>(n) + bytes + 256);
  if (!memory.ok()) return memory.status();
  DeviceArrays arrays(memory.value());
  auto* frames = arrays.Take<int64_t>(n);
  auto* sums = arrays.Take<std::byte>(static_cast<int64_t>(bytes));
  RECIS_RETURN_IF_ERROR(table().ReadGradient(n, divisor, frames, sums).status());
  Gradient gradient{std::vector<int64_t>(static_cast<size_t>(n)), std::vector<std::byte>(bytes)};
  RECIS_RETURN_IF_ERROR(device_->Fetch(frames, n * sizeof(int64_t), gradient.frames.data()));
  RECIS_RETURN_IF_ERROR(device_->Fetch(sums, bytes, gradient.sums.data()));
  return gradient;
}

CacheStats DeviceCache::Stats() const {
  CacheStats stats = stats_;
  stats.rows = rows_.size();
  stats.bytes = rows_.capacity() * static_cast<int64_t>(schema().record_bytes());
  return stats;
}

}  // namespace recis
