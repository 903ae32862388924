// Little-endian encoding of the small values that a store keeps beside its blocks.
//
// Threads: values.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace recis {

static_assert(std::endian::native == std::endian::little, "formats are little-endian");

class Encoder {
 public:
  template <class T>
  Encoder& Put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  // Its length in 4 bytes, then the text.
  Encoder& PutText(std::string_view text) {
    Put(static_cast<uint32_t>(text.size()));
    bytes_.append(text);
    return *this;
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// What runs past the end reads as zero and clears ok().
class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : bytes_(bytes) {}

  template <class T>
  T Get() {
    static_assert(std::is_arithmetic_v<T>);
    T value{};
    const std::string_view piece = Take(sizeof(T));
    if (ok_) std::memcpy(&value, piece.data(), sizeof(T));
    return value;
  }
  std::string GetText() { return std::string(Take(Get<uint32_t>())); }

  bool ok() const { return ok_; }
  bool done() const { return ok_ && bytes_.empty(); }

 private:
  std::string_view Take(size_t count) {
    ok_ = ok_ && count <= bytes_.size();
    if (!ok_) return {};
    const std::string_view piece = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return piece;
  }

  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace recis
