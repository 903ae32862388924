#include "base/async_reads.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/testing.h"

namespace recis {
namespace {

constexpr size_t kPage = AsyncReads::kAlignment;

// A file whose page p is filled with the byte p, open with O_DIRECT; -1 where that cannot be.
class Pages {
 public:
  explicit Pages(int count) : path_((std::filesystem::temp_directory_path() / "recis-XXXXXX")) {
    const int out = mkstemp(path_.data());
    EXPECT_LE(0, out);
    for (int page = 0; page < count; ++page) {
      const std::vector<char> bytes(kPage, static_cast<char>(page));
      EXPECT_EQ(write(out, bytes.data(), kPage), static_cast<ssize_t>(kPage));
    }
    close(out);
    fd = open(path_.c_str(), O_RDONLY | O_DIRECT);
  }
  ~Pages() {
    if (fd >= 0) close(fd);
    unlink(path_.c_str());
  }
  int fd;

 private:
  std::string path_;
};

TEST(EveryReadBringsItsBytesUnderItsTag) {
  const Pages pages(100);
  if (pages.fd < 0) return;  // no O_DIRECT here
  auto reads = AsyncReads::Take();
  if (!reads) return;
  std::map<uint64_t, int> seen;
  uint64_t next = 0;
  while (next < 99 || !reads->empty()) {
    for (; next < 99 && !reads->full(); ++next) reads->Add(next, pages.fd, next * kPage, 2 * kPage);
    for (const AsyncReads::Done& done : reads->Wait()) {
      EXPECT_EQ(done.result, static_cast<int64_t>(2 * kPage));
      EXPECT_EQ(static_cast<int>(done.data[0]), static_cast<int>(done.tag));
      EXPECT_EQ(static_cast<int>(done.data[2 * kPage - 1]), static_cast<int>(done.tag) + 1);
      ++seen[done.tag];
    }
  }
  EXPECT_EQ(seen.size(), 99u);
  const AsyncReads* kept = reads.get();
  AsyncReads::GiveBack(std::move(reads));
  EXPECT(AsyncReads::Take().get() == kept);
}

TEST(TheEndOfTheFileAndARefusalShowInTheResult) {
  const Pages pages(2);
  if (pages.fd < 0) return;
  const auto reads = AsyncReads::Take();
  if (!reads) return;
  reads->Add(1, pages.fd, kPage, 2 * kPage);
  EXPECT_EQ(reads->Wait().front().result, static_cast<int64_t>(kPage));
  reads->Add(2, -1, 0, kPage);
  EXPECT_EQ(reads->Wait().front().result, -EBADF);
  EXPECT(reads->empty());
}

}  // namespace
}  // namespace recis
