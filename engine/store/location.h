// Where the record of a row is: in a hot frame, in an entry of a cold block, or nowhere.
//
// Threads: a value.
#pragma once

#include <cstdint>

namespace recis {

// A place for one record in the hot blocks of a table.
using Frame = uint32_t;
// A block by its number in the catalog.
using BlockNumber = uint32_t;

class Location {
 public:
  Location() = default;  // nowhere
  static Location Hot(Frame frame) { return Location(kHot | frame); }
  static Location Cold(BlockNumber block, uint32_t position) {
    return Location(kCold | uint64_t{position} << 32 | block);
  }

  bool nowhere() const { return bits_ == 0; }
  bool hot() const { return bits_ & kHot; }
  bool cold() const { return bits_ & kCold; }
  Frame frame() const { return static_cast<uint32_t>(bits_); }        // REQUIRES: hot()
  BlockNumber block() const { return static_cast<uint32_t>(bits_); }  // REQUIRES: cold()
  uint32_t position() const { return static_cast<uint32_t>(bits_ >> 32) & kPositionMask; }

  bool operator==(const Location&) const = default;

 private:
  static constexpr uint64_t kHot = uint64_t{1} << 63;
  static constexpr uint64_t kCold = uint64_t{1} << 62;
  static constexpr uint32_t kPositionMask = (uint32_t{1} << 30) - 1;

  explicit Location(uint64_t bits) : bits_(bits) {}
  uint64_t bits_ = 0;
};

}  // namespace recis
