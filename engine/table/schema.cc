#include "table/schema.h"

#include <cmath>

namespace recis {

std::string ToString(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

const char* NameOf(DType dtype) {
  constexpr const char* kNames[kDTypeCount] = {"float32", "float64", "float16", "bfloat16",
                                               "int8",    "int32",   "int64"};
  return kNames[static_cast<int>(dtype)];
}

bool Holds(DType dtype, double value) {
  if (IsFloating(dtype)) return true;
  const double limit = std::ldexp(1, static_cast<int>(8 * SizeOf(dtype)) - 1);
  return std::trunc(value) >= -limit && std::trunc(value) < limit;
}

Result<int> Schema::IndexOf(const std::string& name) const {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].name == name) return static_cast<int>(i);
  }
  std::string known;
  for (const Slot& slot : slots_) known += (known.empty() ? "" : ", ") + slot.name;
  return NotFound("no slot '" + name + "'; there are: " + known);
}

Result<int> Schema::Add(Slot slot) {
  slot.count = 1;
  for (const int64_t size : slot.shape) {
    if (size <= 0 || __builtin_mul_overflow(slot.count, size, &slot.count) ||
        slot.count > kMaxRecordBytes) {
      return InvalidArgument("slot '" + slot.name + "': shape " + ToString(slot.shape) +
                             " must have positive sizes and at most 2^30 elements");
    }
  }
  if (!Holds(slot.dtype, slot.initial)) {
    return InvalidArgument("slot '" + slot.name + "': " + NameOf(slot.dtype) + " cannot start at " +
                           std::to_string(slot.initial));
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& other = slots_[i];
    if (other.name != slot.name) continue;
    if (other.dtype == slot.dtype && other.shape == slot.shape && other.initial == slot.initial) {
      return static_cast<int>(i);
    }
    return InvalidArgument("slot '" + slot.name + "' exists as " + NameOf(other.dtype) + " " +
                           ToString(other.shape) + " starting at " + std::to_string(other.initial) +
                           ", asked for " + NameOf(slot.dtype) + " " + ToString(slot.shape) +
                           " starting at " + std::to_string(slot.initial));
  }
  const size_t size = SizeOf(slot.dtype);
  slot.offset = (used_bytes_ + size - 1) / size * size;
  if (slot.offset + slot.bytes() > static_cast<size_t>(kMaxRecordBytes)) {
    return InvalidArgument("slot '" + slot.name + "': a record may have at most 2^30 bytes");
  }
  used_bytes_ = slot.offset + slot.bytes();
  slots_.push_back(std::move(slot));
  return static_cast<int>(slots_.size()) - 1;
}

}  // namespace recis
