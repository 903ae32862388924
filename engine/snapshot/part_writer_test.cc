#include "snapshot/part_writer.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>

#include "base/env_testing.h"
#include "cold/log_testing.h"
#include "snapshot/direct_file.h"
#include "snapshot/find.h"
#include "xxhash.h"

namespace recis::testing {
namespace {

constexpr uint32_t kSlices = 1024;
constexpr uint64_t kOffset = 8192;

// Rows whose bytes follow from id and slot.
class MadeUp : public SnapshotSource {
 public:
  MadeUp(std::vector<int64_t> ids, std::vector<Slot> slots)
      : ids_(std::move(ids)), slots_(std::move(slots)) {}

  static std::byte ByteOf(int64_t id, size_t slot, size_t i) {
    const uint64_t mixed = (static_cast<uint64_t>(id) + slot * 31 + i) * 0x9E3779B97F4A7C15u;
    return static_cast<std::byte>(mixed >> 56);
  }

  const std::vector<Slot>& slots() const override { return slots_; }
  Status CountSlices(uint32_t slices, int64_t* counts) const override {
    for (const int64_t id : ids_) ++counts[SliceOf(id, slices)];
    return {};
  }
  Status List(uint32_t slices, uint32_t begin, uint32_t end,
              std::vector<RowOfId>* rows) const override {
    for (size_t i = 0; i < ids_.size(); ++i) {
      const uint32_t slice = SliceOf(ids_[i], slices);
      if (slice >= begin && slice < end) rows->push_back({ids_[i], static_cast<Row>(i)});
    }
    SortBySlice(slices, begin, end, rows);
    return {};
  }
  Status Gather(const RowOfId* rows, int64_t n,
                const std::vector<std::byte*>& values) const override {
    for (int64_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < slots_.size(); ++k) {
        const size_t bytes = slots_[k].bytes();
        for (size_t b = 0; b < bytes; ++b) values[k][i * bytes + b] = ByteOf(rows[i].id, k, b);
      }
    }
    return {};
  }
  void Done(uint32_t, uint32_t begin, uint32_t end) override { done += end - begin; }

  uint32_t done = 0;

 private:
  const std::vector<int64_t> ids_;
  const std::vector<Slot> slots_;
};

Slot SlotOf(std::string name, DType dtype, int64_t count) {
  return {.name = std::move(name), .dtype = dtype, .shape = {count}, .count = count};
}

std::vector<int64_t> RandomIds(int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (int64_t& id : ids) id = static_cast<int64_t>(random());
  return ids;
}

// What the file must hold, put together the plain way; its checksums too.
std::string Expected(MadeUp& source, const PartRange& range, std::vector<uint64_t>* sums) {
  std::vector<RowOfId> rows;
  Ok(source.List(range.slices, range.begin, range.end, &rows));
  const std::vector<size_t> order = PayloadOrder(source.slots());
  std::vector<std::string> columns(order.size() + 1);
  std::vector<std::vector<uint64_t>> of_groups(columns.size());
  std::string offsets;
  int64_t row = 0;
  const auto n = static_cast<int64_t>(rows.size());
  std::vector<size_t> begins(columns.size());
  for (uint32_t slice = range.begin; slice <= range.end; ++slice) {
    const bool boundary = slice == range.end || (slice - range.begin) % kGroupSlices == 0;
    if (boundary && slice > range.begin) {
      for (size_t c = 0; c < columns.size(); ++c) {
        of_groups[c].push_back(
            XXH3_64bits(columns[c].data() + begins[c], columns[c].size() - begins[c]));
        begins[c] = columns[c].size();
      }
    }
    offsets.append(reinterpret_cast<const char*>(&row), sizeof(row));
    for (; row < n && slice < range.end && SliceOf(rows[row].id, range.slices) == slice; ++row) {
      columns[0].append(reinterpret_cast<const char*>(&rows[row].id), sizeof(int64_t));
      for (size_t c = 1; c < columns.size(); ++c) {
        const size_t slot = order[c - 1];
        for (size_t b = 0; b < source.slots()[slot].bytes(); ++b) {
          columns[c].push_back(static_cast<char>(MadeUp::ByteOf(rows[row].id, slot, b)));
        }
      }
    }
  }
  std::string checksums;
  for (size_t group = 0; group < of_groups[0].size(); ++group) {
    for (const auto& column : of_groups) {
      checksums.append(reinterpret_cast<const char*>(&column[group]), sizeof(uint64_t));
    }
  }
  const auto whole = [&](size_t c) {
    return XXH3_64bits(of_groups[c].data(), of_groups[c].size() * sizeof(uint64_t));
  };
  *sums = {whole(0), XXH3_64bits(offsets.data(), offsets.size()),
           XXH3_64bits(checksums.data(), checksums.size())};
  std::string payload = columns[0] + offsets + checksums;
  for (size_t c = 1; c < columns.size(); ++c) {
    sums->push_back(whole(c));
    payload += columns[c];
  }
  return payload;
}

std::string FileFrom(const std::string& path, uint64_t offset) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  return {std::istreambuf_iterator<char>(file), {}};
}

void CheckPart(MadeUp source, const PartRange& range) {
  const TemporaryDirectory folder;
  std::vector<uint64_t> sums;
  const std::string expected = Expected(source, range, &sums);
  EXPECT_EQ(Value(WritePart(source, folder / "part", kOffset, range)), sums);
  EXPECT(FileFrom(folder / "part", kOffset) == expected, expected.size());
  EXPECT_EQ(source.done, range.end - range.begin);
}

// A file system that takes O_DIRECT or not, or says so only when it is written to.
class WithoutDirect : public Env {
 public:
  explicit WithoutDirect(bool at_open) : at_open_(at_open) {}
  int Open(const char* path, int flags, mode_t mode) override {
    if ((flags & O_DIRECT) == 0) return Env::Open(path, flags, mode);
    if (at_open_) return errno = EINVAL, -1;
    return direct_ = Env::Open(path, flags & ~O_DIRECT, mode);
  }
  ssize_t Pwritev(int fd, const iovec* parts, int count, off_t offset) override {
    if (fd == direct_) return errno = EINVAL, -1;
    return Env::Pwritev(fd, parts, count, offset);
  }
  int Close(int fd) override {
    if (fd == direct_) direct_ = -1;
    return Env::Close(fd);
  }

 private:
  const bool at_open_;
  int direct_ = -1;
};

const std::vector<Slot> kOddSlots{
    SlotOf("embedding", DType::kFloat32, 5), SlotOf("flag", DType::kInt8, 3),
    SlotOf("count", DType::kInt64, 1), SlotOf("half", DType::kFloat16, 7)};

}  // namespace

TEST(WideElementsComeFirst) {
  EXPECT_EQ(PayloadOrder(kOddSlots), std::vector<size_t>({2, 0, 3, 1}));
}

TEST(APartIsWhatTheFormatSays) {
  for (const int64_t n : {0, 1, 2, 100, 511, 512, 513, 3000}) {
    CheckPart(MadeUp(RandomIds(n, 1), kOddSlots), {kSlices, 0, kSlices});
    CheckPart(MadeUp(RandomIds(n, 2), kOddSlots), {kSlices, 300, 817});
    CheckPart(MadeUp(RandomIds(n, 3), {}), {kSlices, 0, kSlices});
  }
}

TEST(AllIdsOfOneSlice) {
  std::vector<int64_t> ids;
  for (int64_t i = -500; i < 500; ++i) ids.push_back(i * kSlices + 7);
  CheckPart(MadeUp(ids, kOddSlots), {kSlices, 0, kSlices});
  CheckPart(MadeUp(ids, kOddSlots), {kSlices, 8, kSlices});
}

TEST(PartsLargerThanTheBuffers) {
  // Several pieces a section, and sections of a byte beside them.
  CheckPart(MadeUp(RandomIds(9000, 4),
                   {SlotOf("wide", DType::kFloat32, 1000), SlotOf("byte", DType::kInt8, 1)}),
            {kSlices, 0, kSlices});
}

TEST(RowsLargerThanTheBuffers) {
  CheckPart(MadeUp(RandomIds(3, 4),
                   {SlotOf("huge", DType::kFloat32, 2000000), SlotOf("byte", DType::kInt8, 3)}),
            {kSlices, 0, kSlices});
}

TEST(TheSameBytesWhereThereIsNoDirectWriting) {
  for (const bool at_open : {true, false}) {
    WithoutDirect env(at_open);
    Env::Replace(&env);
    CheckPart(MadeUp(RandomIds(3000, 5), kOddSlots), {kSlices, 0, kSlices});
    Env::Replace(nullptr);
  }
}

TEST(AFailedWriteIsReportedWhereverItHappens) {
  for (const int fault : {ENOSPC, EIO, FaultEnv::kShort}) {
    for (int64_t at = 1;; ++at) {
      const TemporaryDirectory folder;
      MadeUp source(RandomIds(3000, 6), kOddSlots);
      FaultEnv env(at, fault);
      Env::Replace(&env);
      const auto sums = WritePart(source, folder / "part", kOffset, {kSlices, 0, kSlices});
      Env::Replace(nullptr);
      if (!env.happened()) {
        EXPECT_LT(3, at);
        break;
      }
      if (fault == FaultEnv::kShort) {
        std::vector<uint64_t> expected_sums;
        const std::string expected = Expected(source, {kSlices, 0, kSlices}, &expected_sums);
        EXPECT_EQ(Value(sums), expected_sums);
        EXPECT(FileFrom(folder / "part", kOffset) == expected, at);
        continue;
      }
      EXPECT(!sums.ok(), at);
      EXPECT(sums.status().message().find(folder / "part") != std::string::npos);
      EXPECT_EQ(source.done, 0u);
    }
  }
}

TEST(AFileThatIsThereIsNotTouched) {
  const TemporaryDirectory folder;
  std::ofstream(folder / "part") << "precious";
  MadeUp source(RandomIds(3, 7), kOddSlots);
  EXPECT(!WritePart(source, folder / "part", kOffset, {kSlices, 0, kSlices}).ok());
  EXPECT_EQ(FileFrom(folder / "part", 0), std::string("precious"));
}

TEST(IdsAreFoundWhereTheyAre) {
  for (const int64_t n : {0, 1, 17, 5000}) {
    MadeUp source(RandomIds(n, 8), {});
    const PartRange range{kSlices, 100, 900};
    std::vector<RowOfId> rows;
    Ok(source.List(range.slices, range.begin, range.end, &rows));
    std::vector<int64_t> sorted, offsets(range.end - range.begin + 1);
    for (const RowOfId& row : rows) {
      sorted.push_back(row.id);
      ++offsets[SliceOf(row.id, kSlices) - range.begin + 1];
    }
    for (size_t i = 1; i < offsets.size(); ++i) offsets[i] += offsets[i - 1];
    std::vector<int64_t> wanted = sorted;
    for (const int64_t id : RandomIds(200, 8)) wanted.push_back(id);
    for (const int64_t id : RandomIds(200, 9)) wanted.push_back(id);
    for (const int64_t id : sorted) wanted.push_back(id + kSlices);
    std::vector<int64_t> found(wanted.size(), -7);
    const SortedIds part{range, offsets.data(), sorted.data(), static_cast<int64_t>(sorted.size())};
    FindSorted(part, wanted.data(), static_cast<int64_t>(wanted.size()), found.data());
    for (size_t i = 0; i < wanted.size(); ++i) {
      const auto at = std::find(sorted.begin(), sorted.end(), wanted[i]);
      EXPECT_EQ(found[i], at == sorted.end() ? -1 : at - sorted.begin(), wanted[i]);
    }
    // Offsets from a damaged file lead nowhere else.
    std::mt19937_64 random(10);
    for (int64_t& offset : offsets) offset = static_cast<int64_t>(random());
    FindSorted(part, wanted.data(), static_cast<int64_t>(wanted.size()), found.data());
    for (const int64_t row : found) EXPECT(row >= -1 && row < part.size);
  }
}

TEST(RowsAreGatheredAndTheRestLeft) {
  const std::vector<float> source{0, 0.5, 1, 1.5, 2, 2.5};
  const std::vector<int64_t> rows{2, -1, 0};
  std::vector<float> out(6, 9);
  GatherRows(reinterpret_cast<const std::byte*>(source.data()), 8, rows.data(), 3,
             reinterpret_cast<std::byte*>(out.data()));
  EXPECT_EQ(out, std::vector<float>({2, 2.5, 9, 9, 0, 0.5}));
}

}  // namespace recis::testing
