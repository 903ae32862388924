// The schema of a table: its slots and where they lie in a record.
//
// Slots are only ever appended, so the place of a slot never changes; the record is
// padded to 16 bytes.
//
// Threads: a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"

namespace recis {

struct Slot {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  double initial = 0;  // every element of a new row; the embedding's are drawn instead
  int64_t count = 1;   // elements, derived from shape
  size_t offset = 0;   // into the record, derived

  size_t bytes() const { return static_cast<size_t>(count) * SizeOf(dtype); }
};

class Schema {
 public:
  static constexpr int64_t kMaxRecordBytes = int64_t{1} << 30;

  // Appends a slot and returns its index. A slot with this name that agrees in dtype,
  // shape and initial value is found instead; one that does not is an error.
  Result<int> Add(Slot slot);
  Result<int> IndexOf(const std::string& name) const;

  // The slots as a value of the store; Decode(Encode()) gives the same schema.
  std::string Encode() const;
  static Result<Schema> Decode(std::string_view bytes);

  const std::vector<Slot>& slots() const { return slots_; }
  size_t used_bytes() const { return used_bytes_; }
  size_t record_bytes() const { return (used_bytes_ + 15) / 16 * 16; }

 private:
  std::vector<Slot> slots_;
  size_t used_bytes_ = 0;
};

// All of a record, as if it were one slot.
Slot WholeRecord(const Schema& schema);
// Whether an element of `dtype` can start at `value`: the integers have limits.
bool Holds(DType dtype, double value);
std::string ToString(const std::vector<int64_t>& shape);
const char* NameOf(DType dtype);

}  // namespace recis
