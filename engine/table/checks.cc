#include "table/checks.h"

#include <limits>
#include <utility>

#include "base/row.h"

namespace recis {
namespace {

size_t StatesOf(const RuleParams& params) {
  switch (params.rule) {
    case Rule::kSgd:
      return params.momentum != 0 ? 1 : 0;
    case Rule::kAdagrad:
    case Rule::kRowWiseAdagrad:
      return 1;
    case Rule::kAdam:
      return params.amsgrad ? 3 : 2;
  }
  return 0;
}

std::string Named(const TableOptions& options) { return "table '" + options.name + "'"; }

}  // namespace

Result<Schema> SchemaOf(const TableOptions& options) {
  if (options.block_rows <= 0) {
    return InvalidArgument(Named(options) + ": block_size must be positive, is " +
                           std::to_string(options.block_rows));
  }
  Schema schema;
  Result<int> embedding = AddSlotTo(
      options, {.name = "embedding", .dtype = options.dtype, .shape = options.shape}, &schema);
  if (!embedding.ok()) return embedding.status();
  int64_t block_bytes;
  if (__builtin_mul_overflow(options.block_rows, static_cast<int64_t>(schema.record_bytes()),
                             &block_bytes) ||
      options.block_rows > static_cast<int64_t>(kNoRow)) {
    return InvalidArgument(Named(options) + ": a block of " + std::to_string(options.block_rows) +
                           " rows is too large");
  }
  if (!Holds(options.dtype, options.draw.shift)) {
    return InvalidArgument(Named(options) + ": " + NameOf(options.dtype) + " cannot start at " +
                           std::to_string(options.draw.shift));
  }
  return schema;
}

std::vector<std::byte> NewRecord(const TableOptions& options, const Schema& schema) {
  std::vector<std::byte> record(schema.record_bytes(), std::byte{0});
  for (size_t i = 0; i < schema.slots().size(); ++i) {
    const Slot& slot = schema.slots()[i];
    DrawArgs constant;
    constant.shift = i == 0 ? options.draw.shift : slot.initial;
    ActiveKernels().draw(constant, 0, slot.dtype, slot.count, record.data() + slot.offset);
  }
  return record;
}

Status CheckBatch(const TableOptions& options, int64_t n) {
  if (n <= std::numeric_limits<int32_t>::max()) return {};
  return InvalidArgument(Named(options) + ": " + std::to_string(n) +
                         " ids in one call; at most 2^31 - 1, so cut the batch");
}

Status CheckSlot(const TableOptions& options, const Schema& schema, int slot) {
  if (slot >= 0 && slot < static_cast<int>(schema.slots().size())) return {};
  return OutOfRange(Named(options) + ": slot " + std::to_string(slot) + " is not there; it has " +
                    std::to_string(schema.slots().size()));
}

Status CheckCounter(const TableOptions& options, const Schema& schema, int slot) {
  RECIS_RETURN_IF_ERROR(CheckSlot(options, schema, slot));
  const Slot& counter = schema.slots()[slot];
  if (counter.dtype == DType::kInt64) return {};
  return InvalidArgument(Named(options) + ": slot '" + counter.name + "' holds " +
                         NameOf(counter.dtype) + ": only int64 slots can be added to");
}

Status NotInUse(const TableOptions& options, int64_t row, int64_t position, int64_t live_rows) {
  return OutOfRange(Named(options) + ": row " + std::to_string(row) + " (position " +
                    std::to_string(position) + ") is not in use; the table has " +
                    std::to_string(live_rows) + " rows, ids_map() lists them");
}

Result<int> AddSlotTo(const TableOptions& options, Slot slot, Schema* schema) {
  Result<int> added = schema->Add(std::move(slot));
  if (added.ok()) return added;
  return Status(added.status().code(), Named(options) + ": " + added.status().message());
}

Result<RecordPlaces> PlacesOf(const TableOptions& options, const Schema& schema,
                              const RuleParams& params, const std::vector<int>& states) {
  if (!IsFloating(options.dtype)) {
    return InvalidArgument(Named(options) + " holds " + NameOf(options.dtype) +
                           ": only floating-point tables can be trained");
  }
  if (states.size() < StatesOf(params)) {
    return InvalidArgument(Named(options) + ": this optimizer needs " +
                           std::to_string(StatesOf(params)) + " state slots, found " +
                           std::to_string(states.size()));
  }
  const Slot& embedding = schema.slots()[0];
  RecordPlaces places{embedding.offset, {}};
  for (size_t i = 0; i < StatesOf(params); ++i) {
    RECIS_RETURN_IF_ERROR(CheckSlot(options, schema, states[i]));
    const Slot& slot = schema.slots()[states[i]];
    const int64_t wanted = params.rule == Rule::kRowWiseAdagrad ? 1 : embedding.count;
    if (slot.dtype != AccumulatorOf(options.dtype) || slot.count != wanted) {
      return InvalidArgument(Named(options) + ": slot '" + slot.name + "' is " +
                             NameOf(slot.dtype) + " " + ToString(slot.shape) +
                             ", which this optimizer cannot use as its state");
    }
    places.states[i] = slot.offset;
  }
  return places;
}

}  // namespace recis
