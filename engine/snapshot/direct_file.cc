#include "snapshot/direct_file.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/env.h"
#include "base/yield.h"

namespace recis {
namespace {

constexpr uint64_t kPage = DirectFile::kPageBytes;
constexpr size_t kMinPieceBytes = 16 * kPage;
constexpr size_t kMaxPieceBytes = size_t{4} << 20;
constexpr size_t kSparePieces = 4;  // beyond one for each section that is being filled

uint64_t Down(uint64_t offset) { return offset / kPage * kPage; }
uint64_t Up(uint64_t offset) { return Down(offset + kPage - 1); }

// 64 bytes are all that the cache aligns to.
std::byte* Aligned(const Buffer& memory) {
  return reinterpret_cast<std::byte*>(Up(reinterpret_cast<uintptr_t>(memory.data())));
}

}  // namespace

Result<std::unique_ptr<DirectFile>> DirectFile::Create(const std::string& path, uint64_t offset,
                                                       const std::vector<uint64_t>& sizes) {
  RECIS_CHECK(offset % kPage == 0);
  uint64_t end = offset;
  for (const uint64_t size : sizes) end += size;
  std::unique_ptr<DirectFile> file(new DirectFile(path, end));
  uint64_t begin = offset;
  for (const uint64_t size : sizes) {
    file->sections_.push_back({begin, begin + size, begin, nullptr});
    begin += size;
  }
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  Env& env = Env::Get();
  file->file_ = env.Open(path.c_str(), kFlags | O_DIRECT, 0666);
  if (file->file_ < 0 && errno == EINVAL) {
    file->direct_ = false;
    file->file_ = env.Open(path.c_str(), kFlags & ~O_EXCL, 0666);  // it may have been made
  }
  if (file->file_ < 0) return IoError(errno, path, "make the file");
  const size_t pieces = sizes.size() + kSparePieces;
  file->piece_bytes_ = std::clamp<size_t>(Down(kMemoryBytes / pieces - kPage), kMinPieceBytes,
                                          kMaxPieceBytes - kPage);
  for (size_t i = 0; i < pieces; ++i) file->idle_.push_back(std::make_unique<Piece>());
  file->thread_ = std::thread(&DirectFile::Run, file.get());
  return file;
}

DirectFile::~DirectFile() {
  (void)Stop();
  if (file_ >= 0) Env::Get().Close(file_);
}

Result<std::unique_ptr<DirectFile::Piece>> DirectFile::TakePiece(uint64_t offset) {
  Yielding<std::unique_lock<std::mutex>> lock(mutex_);
  changed_.wait(lock, [this] { return !idle_.empty() || !failure_.ok(); });
  if (!failure_.ok()) return failure_;
  std::unique_ptr<Piece> piece = std::move(idle_.back());
  idle_.pop_back();
  lock.unlock();
  if (piece->data == nullptr) {
    piece->memory = BufferCache::Get(piece_bytes_ + kPage);
    piece->data = Aligned(piece->memory);
  }
  piece->offset = offset;
  return piece;
}

Result<std::byte*> DirectFile::Reserve(size_t number, size_t bytes) {
  Section& section = sections_[number];
  RECIS_CHECK(bytes <= room() && section.next + bytes <= section.end);
  if (section.piece && section.next + bytes > section.piece->offset + piece_bytes_) {
    // The page that is not full yet is where the next piece begins.
    Result<std::unique_ptr<Piece>> next = TakePiece(Down(section.next));
    if (!next.ok()) return next.status();
    const uint64_t begin = std::max(next.value()->offset, section.begin);
    std::memcpy(next.value()->data + (begin - next.value()->offset),
                section.piece->data + (begin - section.piece->offset), section.next - begin);
    Submit(section, std::exchange(section.piece, std::move(next.value())));
  } else if (!section.piece) {
    Result<std::unique_ptr<Piece>> first = TakePiece(Down(section.next));
    if (!first.ok()) return first.status();
    section.piece = std::move(first.value());
  }
  return section.piece->data + (section.next - section.piece->offset);
}

void DirectFile::Advance(size_t number, size_t bytes) {
  Section& section = sections_[number];
  section.next += bytes;
  if (section.next == section.end && section.piece) Submit(section, std::move(section.piece));
}

Status DirectFile::Append(size_t number, const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const size_t count = std::min(bytes, room());
    Result<std::byte*> to = Reserve(number, count);
    if (!to.ok()) return to.status();
    std::memcpy(to.value(), from, count);
    Advance(number, count);
    from += count;
    bytes -= count;
  }
  return {};
}

// Whole pages of the section go to the writer. Of its first page and its last, the rest is other
// sections'; any other page that is not full yet is in the next piece too.
void DirectFile::Submit(Section& section, std::unique_ptr<Piece> piece) {
  const bool last = section.next == section.end;
  const uint64_t begin = std::max(section.begin, piece->offset), end = section.next;
  const uint64_t whole_begin = Up(begin), whole_end = std::max(Down(end), whole_begin);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (begin < whole_begin) KeepEdge(*piece, begin, std::min(end, whole_begin));
    if (last && whole_end < end && end > whole_begin) KeepEdge(*piece, whole_end, end);
    piece->begin = whole_begin - piece->offset;
    piece->end = whole_end - piece->offset;
    (piece->begin < piece->end ? queued_.emplace_back(std::move(piece))
                               : idle_.emplace_back(std::move(piece)));
  }
  changed_.notify_all();
}

// REQUIRES: mutex_. [begin, end) is within one page.
void DirectFile::KeepEdge(const Piece& piece, uint64_t begin, uint64_t end) {
  Buffer& page = edges_[Down(begin)];
  if (page.data() == nullptr) {
    page = BufferCache::Get(2 * kPage);
    std::memset(Aligned(page), 0, kPage);
  }
  std::memcpy(Aligned(page) + begin % kPage, piece.data + (begin - piece.offset), end - begin);
}

void DirectFile::Run() {
  Yielding<std::unique_lock<std::mutex>> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !queued_.empty() || closing_; });
    if (queued_.empty()) return;
    std::unique_ptr<Piece> piece = std::move(queued_.front());
    queued_.pop_front();
    const bool failed = !failure_.ok();
    lock.unlock();
    Status status;
    if (!failed) {
      status = Write(piece->data + piece->begin, piece->offset + piece->begin,
                     piece->end - piece->begin);
    }
    lock.lock();
    if (!status.ok()) failure_ = std::move(status);
    idle_.push_back(std::move(piece));
    changed_.notify_all();
  }
}

Status DirectFile::Write(const std::byte* data, uint64_t offset, size_t bytes) {
  constexpr int kMostStalls = 3;
  Env& env = Env::Get();
  int stalls = 0;
  for (size_t done = 0; done < bytes;) {
    const iovec part{const_cast<std::byte*>(data) + done, bytes - done};
    const ssize_t written = env.Pwritev(file_, &part, 1, static_cast<off_t>(offset + done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EINVAL && direct_) {
      // The file system takes the flag and not the writes.
      env.Close(std::exchange(file_, -1));
      direct_ = false;
      file_ = env.Open(path_.c_str(), O_WRONLY | O_CLOEXEC, 0);
      if (file_ >= 0) continue;
    }
    if (written < 0) return IoError(errno, path_, "write");
    // What was cut short within a page is written again: writes are of whole pages.
    const size_t before = std::exchange(done, Down(done + static_cast<size_t>(written)));
    if (done == before && ++stalls > kMostStalls) return IoError(EIO, path_, "write");
  }
  return {};
}

Status DirectFile::WriteEdges() {
  for (const auto& [offset, page] : edges_) {
    RECIS_RETURN_IF_ERROR(Write(Aligned(page), offset, kPage));
  }
  if (Env::Get().Ftruncate(file_, static_cast<off_t>(bytes_)) != 0) {
    return IoError(errno, path_, "set its length");
  }
  return {};
}

Status DirectFile::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  return failure_;
}

Status DirectFile::Close() {
  for (const Section& section : sections_) RECIS_CHECK(section.next == section.end);
  RECIS_RETURN_IF_ERROR(Stop());
  RECIS_RETURN_IF_ERROR(WriteEdges());
  const int closed = Env::Get().Close(std::exchange(file_, -1));
  return closed == 0 ? Status() : IoError(errno, path_, "close");
}

}  // namespace recis
