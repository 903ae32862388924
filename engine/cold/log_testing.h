// What tests of the log share: a directory of their own, blocks and entries to put there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/testing.h"
#include "cold/log.h"

namespace recis::testing {

// A directory that is removed at the end.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(std::string parent = "") {
    if (parent.empty()) parent = std::getenv("TMPDIR") != nullptr ? std::getenv("TMPDIR") : "/tmp";
    std::string text = parent + "/recis-test-XXXXXX";
    if (mkdtemp(text.data()) == nullptr) throw Failure{"cannot make " + text};
    path_ = text;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

template <class T>
T Value(Result<T> result) {
  if (!result.ok()) throw Failure{result.status().message()};
  return std::move(result.value());
}
inline void Ok(const Status& status) {
  if (!status.ok()) throw Failure{status.message()};
}

#if defined(RECIS_RANDOM_YIELDS)
inline constexpr size_t kTestMapBytes = size_t{1} << 30;  // sanitizers need the addresses
#else
inline constexpr size_t kTestMapBytes = size_t{1} << 40;
#endif

inline LogOptions At(const std::string& path) {
  LogOptions options;
  options.path = path;
  options.map_bytes = kTestMapBytes;
  return options;
}

inline constexpr size_t kRecordBytes = 48;

// The record of an id: every byte follows from it and from `salt`.
inline std::vector<std::byte> RecordOf(int64_t id, uint64_t salt, size_t bytes = kRecordBytes) {
  std::vector<std::byte> record(bytes);
  uint64_t state = static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15u + salt;
  for (std::byte& byte : record) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<std::byte>(state >> 56);
  }
  return record;
}

// A sealed block of ids first, first + 1, ... in rows of the same numbers.
inline std::shared_ptr<Block> BlockOf(Sequence sequence, int64_t first, uint32_t rows,
                                      uint64_t salt, uint32_t table = 7,
                                      size_t record_bytes = kRecordBytes) {
  auto block = std::make_shared<Block>(table, record_bytes, rows);
  for (uint32_t i = 0; i < rows; ++i) {
    const int64_t id = first + i;
    block->Add(id, static_cast<Row>(id), RecordOf(id, salt, record_bytes).data());
  }
  block->Close(sequence);
  block->Seal();
  return block;
}

inline BlockLiveness AllLive(const Block& block) {
  BlockLiveness live{block.sequence(), block.table(), block.rows(), block.record_bytes(), ""};
  live.live.resize((block.rows() + 7) / 8);
  for (uint32_t i = 0; i < block.rows(); ++i) live.live[i / 8] |= static_cast<char>(1 << i % 8);
  return live;
}

// Reads entry `position` and says whether it is the record of (id, salt).
inline Status ReadOne(const Log& log, Sequence sequence, uint32_t position, int64_t id,
                      uint64_t salt, size_t record_bytes = kRecordBytes) {
  std::vector<std::byte> record(record_bytes);
  const ReadRequest request{sequence,     position,     id, static_cast<Row>(id),
                            record_bytes, record.data()};
  Status status = log.Read(&request, 1);
  if (status.ok() && record != RecordOf(id, salt, record_bytes)) {
    throw Failure{"wrong record of id " + std::to_string(id)};
  }
  return status;
}

}  // namespace recis::testing
