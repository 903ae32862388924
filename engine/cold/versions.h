// A value that changes from epoch to epoch, as it is stored: what it was in the epochs that
// can still be opened.
//
// Threads: a value; shares nothing.
// Invariants:
//  (1) Epochs rise; the value at an epoch is that of the newest version not above it.
//  (2) Empty bytes stand for no value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace recis {

class Versions {
 public:
  // Nothing if the bytes are not what Serialize() wrote.
  static std::optional<Versions> Parse(std::string_view stored);
  std::string Serialize() const;

  // Empty if there is none. Points into this object.
  std::string_view At(uint64_t epoch) const;

  // Sets the value from `epoch` on and forgets what no epoch from `oldest` on needs.
  // REQUIRES: nothing newer than `epoch` is there.
  void Put(uint64_t epoch, std::string bytes, uint64_t oldest);

  // Forgets what is newer; true if something was.
  bool RevertTo(uint64_t epoch);

  // Whether there is no value in any epoch from `oldest` on.
  bool EmptyFrom(uint64_t oldest) const;

 private:
  struct Version {
    uint64_t epoch;
    std::string bytes;
  };
  std::vector<Version> versions_;  // oldest first
};

}  // namespace recis
