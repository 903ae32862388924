// What tables check, and work out of their schema, wherever they live.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "device/kernels.h"
#include "table/schema.h"

namespace recis {

struct TableOptions {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;  // of one embedding
  int64_t block_rows = 5;
  DrawArgs draw;  // first values of an embedding
};

// The schema of a new table: its embedding alone.
Result<Schema> SchemaOf(const TableOptions& options);
// A record of a new row, but for draws.
std::vector<std::byte> NewRecord(const TableOptions& options, const Schema& schema);

Status CheckBatch(const TableOptions& options, int64_t n);
Status CheckSlot(const TableOptions& options, const Schema& schema, int slot);
// The slot of a counter that may be added to.
Status CheckCounter(const TableOptions& options, const Schema& schema, int slot);
Status NotInUse(const TableOptions& options, int64_t row, int64_t position, int64_t live_rows);
// `schema` with one more slot, whose index it returns.
Result<int> AddSlotTo(const TableOptions& options, Slot slot, Schema* schema);

// Where an optimizer's rule finds its operands in a record.
Result<RecordPlaces> PlacesOf(const TableOptions& options, const Schema& schema,
                              const RuleParams& params, const std::vector<int>& states);

}  // namespace recis
