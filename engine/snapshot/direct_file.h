// A file of known sections that grow side by side, written past the system's cache.
//
// Sections lie one behind the other without gaps. What goes into them is put into aligned buffers,
// which one background thread writes, with O_DIRECT where the file system can. Pages that two
// sections share, and the last one, are put together in memory and written at the end.
//
// Threads: different sections from different threads; the rest by one.
// Invariants:
//  (1) Every byte of a section is written once, whatever the order of the appends.
//  (2) Nothing is synced: that is for whoever writes what comes before the sections.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/status.h"
#include "device/memory.h"

namespace recis {

class DirectFile {
 public:
  static constexpr size_t kPageBytes = 4096;
  static constexpr size_t kMemoryBytes = size_t{16} << 20;  // of all buffers together

  // A new file; fails if there is one. sizes: bytes of each section, the first of which begins at
  // `offset`, a multiple of kPageBytes.
  static Result<std::unique_ptr<DirectFile>> Create(const std::string& path, uint64_t offset,
                                                    const std::vector<uint64_t>& sizes);
  ~DirectFile();

  // The most that can be reserved at a time.
  size_t room() const { return piece_bytes_ - kPageBytes; }
  // Where the next bytes of a section go; written by the caller, who then says so with Advance().
  // REQUIRES: bytes <= room(), and the section has as many left. An error is that of any write so
  // far.
  Result<std::byte*> Reserve(size_t section, size_t bytes);
  void Advance(size_t section, size_t bytes);
  Status Append(size_t section, const void* data, size_t bytes);
  // REQUIRES: all sections are full. Returns when everything has been handed to the system.
  Status Close();

 private:
  // Aligned memory for one write.
  struct Piece {
    Buffer memory;
    std::byte* data = nullptr;  // (piece_bytes_), aligned
    uint64_t offset = 0;        // in the file, of data; aligned
    size_t begin = 0, end = 0;  // of data, what is to be written
  };
  struct Section {
    uint64_t begin, end;
    uint64_t next;  // where the next byte goes
    std::unique_ptr<Piece> piece;
  };

  DirectFile(std::string path, uint64_t bytes) : path_(std::move(path)), bytes_(bytes) {}
  Result<std::unique_ptr<Piece>> TakePiece(uint64_t offset);
  void Submit(Section& section, std::unique_ptr<Piece> piece);
  void KeepEdge(const Piece& piece, uint64_t begin, uint64_t end);
  void Run();
  Status Write(const std::byte* data, uint64_t offset, size_t bytes);
  Status WriteEdges();
  Status Stop();

  const std::string path_;
  const uint64_t bytes_;  // of the file
  int file_ = -1;
  bool direct_ = true;
  size_t piece_bytes_ = 0;
  std::vector<Section> sections_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Piece>> idle_;   // GUARDED_BY(mutex_)
  std::deque<std::unique_ptr<Piece>> queued_;  // GUARDED_BY(mutex_)
  std::map<uint64_t, Buffer> edges_;           // GUARDED_BY(mutex_): by offset of the page
  bool closing_ = false;                       // GUARDED_BY(mutex_)
  Status failure_;                             // GUARDED_BY(mutex_): of a write
  std::thread thread_;
};

}  // namespace recis
