#include "table/schema.h"

#include <cmath>

#include "base/codec.h"

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

Slot WholeRecord(const Schema& schema) {
  const auto bytes = static_cast<int64_t>(schema.record_bytes());
  return {.name = "record", .dtype = DType::kInt8, .shape = {bytes}, .count = bytes};
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

std::string Schema::Encode() const {
  Encoder encoder;
  encoder.Put(static_cast<uint32_t>(slots_.size()));
  for (const Slot& slot : slots_) {
    encoder.PutText(slot.name).PutText(NameOf(slot.dtype));
    encoder.Put(static_cast<uint32_t>(slot.shape.size()));
    for (const int64_t size : slot.shape) encoder.Put(size);
    encoder.Put(slot.initial);
  }
  return encoder.Take();
}

Result<Schema> Schema::Decode(std::string_view bytes) {
  Decoder decoder(bytes);
  Schema schema;
  const auto count = decoder.Get<uint32_t>();
  for (uint32_t i = 0; i < count && decoder.ok(); ++i) {
    Slot slot;
    slot.name = decoder.GetText();
    const std::string dtype = decoder.GetText();
    int code = 0;
    while (code < kDTypeCount && dtype != NameOf(static_cast<DType>(code))) ++code;
    if (code == kDTypeCount) return Corrupt("slot '" + slot.name + "' has no type '" + dtype + "'");
    slot.dtype = static_cast<DType>(code);
    const auto dims = decoder.Get<uint32_t>();
    for (uint32_t d = 0; d < dims && decoder.ok(); ++d)
      slot.shape.push_back(decoder.Get<int64_t>());
    slot.initial = decoder.Get<double>();
    if (!decoder.ok()) break;
    Result<int> added = schema.Add(std::move(slot));
    if (!added.ok()) return added.status();
  }
  if (!decoder.done() || count == 0) {
    return Corrupt("its schema, of " + std::to_string(bytes.size()) + " bytes, cannot be read");
  }
  return schema;
}

}  // namespace recis
