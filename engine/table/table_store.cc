// Table as a member of a store: how it joins one, what it saves there and how it comes back.

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/codec.h"
#include "table/numbering.h"
#include "table/table.h"

namespace recis {
namespace {

constexpr char kSchemaKey[] = "schema";
constexpr char kRowsKey[] = "rows";
constexpr char kFreedKey[] = "freed/";
constexpr int64_t kFreedRows = 4096;          // in one value
constexpr size_t kRecoveredIds = 65536;       // put into the index at a time
constexpr size_t kPrefetchedBytes = 8 << 20;  // of records, read at a time

std::string FreedKey(int64_t chunk) {
  char key[32];
  std::snprintf(key, sizeof(key), "%s%010lld", kFreedKey, static_cast<long long>(chunk));
  return key;
}

std::string Describe(const Slot& slot) {
  return std::string(NameOf(slot.dtype)) + " " + ToString(slot.shape);
}

}  // namespace

Result<std::shared_ptr<Table>> Table::Make(TableOptions options, std::shared_ptr<Store> store,
                                           bool fronted) {
  Result<std::shared_ptr<Table>> made = MakeEmpty(std::move(options), store, fronted);
  if (!made.ok()) return made;
  Table& table = *made.value();
  const std::string& name = table.options_.name;
  WriteLock lock(table.mutex_);
  RECIS_RETURN_IF_ERROR(store->Usable());
  if (const std::shared_ptr<StoreMember> member = store->Member(name)) {
    auto existing = std::static_pointer_cast<Table>(member);
    RECIS_RETURN_IF_ERROR(table.CheckEmbedding(existing->schema_));
    if (existing->options_.block_rows != table.options_.block_rows ||
        existing->options_.draw != table.options_.draw) {
      return InvalidArgument("table '" + name + "' is in the open store '" +
                             store->options().log.path +
                             "' with another block_size, initializer or seed: make it again as "
                             "it was, or open the store anew");
    }
    if (existing->fronted_ != fronted) {
      return InvalidArgument("table '" + name + "' is in the open store '" +
                             store->options().log.path + "' " +
                             (fronted ? "without a device" : "on a device") +
                             ": make it again as it was, or open the store anew");
    }
    return existing;
  }
  bool known = false;
  const uint32_t number = store->TableNumber(name, &known);
  if (known) RECIS_RETURN_IF_ERROR(table.RecoverSchema(number));
  const RecordLayout layout = table.LayoutOf(table.schema_);
  Result<std::unique_ptr<Tier>> tier =
      Tier::Make(*store, number, table, layout, table.options_.block_rows);
  if (!tier.ok()) {
    return Status(tier.status().code(), "table '" + name + "': " + tier.status().message());
  }
  table.records_ =
      std::make_unique<Records>(layout, table.options_.block_rows, std::move(tier.value()));
  if (known) RECIS_RETURN_IF_ERROR(table.RecoverRows(number));
  store->Join(name, number, made.value());
  return made;
}

Status Table::CheckEmbedding(const Schema& stored) const {
  const Slot &found = stored.slots()[0], &expected = schema_.slots()[0];
  if (found.dtype == expected.dtype && found.shape == expected.shape) return {};
  return InvalidArgument("table '" + options_.name + "' is in the store '" +
                         store_->options().log.path + "' with embeddings of " + Describe(found) +
                         ", and was asked for with " + Describe(expected) +
                         ": ask for what is there, or give the table another name");
}

Result<std::vector<Slot>> Table::SlotsIn(const Store& store, const std::string& name) {
  ReadLock lock(store.mutex());
  RECIS_RETURN_IF_ERROR(store.Usable());
  if (const std::shared_ptr<StoreMember> member = store.Member(name)) {
    return static_cast<const Table&>(*member).schema_.slots();
  }
  bool known = false;
  const uint32_t number = store.TableNumber(name, &known);
  if (!known) {
    return InvalidArgument("the store '" + store.options().log.path + "' has no table '" + name +
                           "'");
  }
  Result<Schema> stored = SchemaIn(store, name, number);
  if (!stored.ok()) return stored.status();
  return stored.value().slots();
}

Result<Schema> Table::SchemaIn(const Store& store, const std::string& name, uint32_t number) {
  std::string encoded;
  RECIS_RETURN_IF_ERROR(
      store.ForEachValue(number, [&](std::string_view key, std::string_view value) {
        if (key == kSchemaKey) encoded = value;
      }));
  Result<Schema> stored = Schema::Decode(encoded);
  if (stored.ok()) return stored;
  return Status(stored.status().code(), "table '" + name + "' in the store '" +
                                            store.options().log.path +
                                            "': " + stored.status().message());
}

Status Table::RecoverSchema(uint32_t number) {
  Result<Schema> stored = SchemaIn(*store_, options_.name, number);
  if (!stored.ok()) return stored.status();
  RECIS_RETURN_IF_ERROR(CheckEmbedding(stored.value()));
  schema_ = std::move(stored.value());
  return {};
}

Status Table::RecoverRows(uint32_t number) {
  int64_t end = 0;
  std::vector<Row> freed;
  RECIS_RETURN_IF_ERROR(
      store_->ForEachValue(number, [&](std::string_view key, std::string_view value) {
        Decoder decoder(value);
        if (key == kRowsKey) {
          end = decoder.Get<int64_t>();
        } else if (key.starts_with(kFreedKey)) {
          for (size_t i = 0; i < value.size() / sizeof(Row); ++i)
            freed.push_back(decoder.Get<Row>());
        }
      }));
  const auto freed_chunks = (static_cast<int64_t>(freed.size()) + kFreedRows - 1) / kFreedRows;
  const int64_t expected = end - static_cast<int64_t>(freed.size());
  RECIS_RETURN_IF_ERROR(directory_.Recover(end, std::move(freed)));
  RECIS_RETURN_IF_ERROR(records_->Reserve(end));
  saved_freed_chunks_ = freed_chunks;

  std::vector<int64_t> ids;
  std::vector<Row> rows;
  Status status;
  const auto index = [&] {
    if (status.ok()) status = index_.Reserve(ids.data(), static_cast<int64_t>(ids.size()));
    if (status.ok()) index_.Insert(ids.data(), rows.data(), static_cast<int64_t>(ids.size()));
    ids.clear();
    rows.clear();
  };
  int64_t found = 0;
  bool doubled = false;
  RECIS_RETURN_IF_ERROR(store_->ForEachEntry(number, [&](int64_t id, Row row, Location where) {
    if (row >= end || directory_.Live(row)) {
      doubled = true;
      return;
    }
    directory_.Bind(row, id);
    records_->tier()->Recover(row, where);
    ids.push_back(id);
    rows.push_back(row);
    ++found;
    if (ids.size() == kRecoveredIds) index();
  }));
  index();
  RECIS_RETURN_IF_ERROR(status);
  if (doubled || found != expected) {
    return Corrupt("table '" + options_.name + "' in the store '" + store_->options().log.path +
                   "': found " + std::to_string(found) + " rows, expected " +
                   std::to_string(expected) + (doubled ? ", and some of them twice" : "") +
                   ": recis-ckpt verify tells more; open the epoch before, or load a snapshot");
  }
  return {};
}

Status Table::Prefetch(const int64_t* ids, int64_t n) {
  if (!store_) return {};
  {
    ReadLock lock(mutex_);
    RECIS_RETURN_IF_ERROR(records_->Changeable());
  }
  store_->InBackground(
      [self = std::static_pointer_cast<Table>(shared_from_this()),
       wanted = std::vector<int64_t>(ids, ids + n)] { self->PrefetchIds(wanted); });
  return {};
}

// What fails here will fail again, and be told, when the rows are looked up.
void Table::PrefetchIds(const std::vector<int64_t>& ids) {
  Numbering numbers(static_cast<int64_t>(ids.size()));
  for (const int64_t id : ids) numbers.Number(id);
  std::vector<Row> rows(static_cast<size_t>(numbers.size()));
  int64_t step = 0;
  {
    ReadLock lock(mutex_);
    if (!records_->Usable().ok()) return;
    FindRows(numbers.ids(), numbers.size(), rows.data());
    std::erase_if(rows, [&](Row row) { return row == kNoRow || !records_->tier()->cold(row); });
    step = std::max<int64_t>(kPrefetchedBytes / records_->layout().record_bytes, 1);
  }
  in_flight_.Begin(std::move(rows));
  for (int64_t first = 0; first < numbers.size(); first += step) {
    PrefetchSome(numbers.ids() + first, std::min(step, numbers.size() - first));
  }
  in_flight_.End();
}

// The disk is read while the table is not locked.
void Table::PrefetchSome(const int64_t* ids, int64_t n) {
  std::vector<Row> rows(static_cast<size_t>(n));
  ColdReads reads;
  {
    ReadLock lock(mutex_);
    FindRows(ids, n, rows.data());
    reads = records_->tier()->ReadsOf(rows.data(), n);
  }
  const auto count = static_cast<int64_t>(reads.requests.size());
  if (!store_->log().Read(reads.requests.data(), count).ok()) return;
  std::sort(reads.requests.begin(), reads.requests.end(),
            [](const ReadRequest& a, const ReadRequest& b) { return a.row < b.row; });
  WriteLock lock(mutex_);
  if (!records_->Changeable().ok()) return;
  FindRows(ids, n, rows.data());
  (void)records_->Prefetch(rows.data(), n, reads);
}

void Table::CollectValues(Values* values) {
  values->emplace_back(kSchemaKey, schema_.Encode());
  values->emplace_back(kRowsKey, Encoder().Put<int64_t>(directory_.end()).Take());
  const std::vector<Row>& freed = directory_.freed();
  const auto count = static_cast<int64_t>(freed.size());
  const int64_t chunks = (count + kFreedRows - 1) / kFreedRows;
  for (int64_t chunk = directory_.TakeUnchanged() / kFreedRows; chunk < chunks; ++chunk) {
    const int64_t first = chunk * kFreedRows, rows = std::min(kFreedRows, count - first);
    Encoder encoder;
    for (int64_t i = 0; i < rows; ++i) encoder.Put<Row>(freed[first + i]);
    values->emplace_back(FreedKey(chunk), encoder.Take());
  }
  for (int64_t chunk = chunks; chunk < saved_freed_chunks_; ++chunk) {
    values->emplace_back(FreedKey(chunk), "");
  }
  saved_freed_chunks_ = chunks;
}

}  // namespace recis
