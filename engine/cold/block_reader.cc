#include "cold/block_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/env.h"

namespace recis {
namespace {

// Reads that are announced to the system before the first of them is waited for. It takes them in
// at once, so one thread keeps the disk as busy as 32 that wait do: see docs/numbers.md.
constexpr size_t kAhead = 128;

std::string PositionOf(uint32_t position) { return "position " + std::to_string(position); }

Status Mismatch(const std::string& what, uint64_t found, uint64_t expected) {
  char text[96];
  std::snprintf(text, sizeof(text), ": expected the checksum %016llx of its content, found %016llx",
                static_cast<unsigned long long>(expected), static_cast<unsigned long long>(found));
  return Corrupt(what + text);
}

}  // namespace

struct BlockReader::Entry {
  Sequence sequence;
  uint32_t position;
  uint32_t together;  // entries, from this one on, that one direct read brings
  const ReadRequest* request;
  uint64_t offset;  // in the file

  size_t bytes() const { return sizeof(EntryHeader) + request->record_bytes; }
  // The part of the file that a direct read must cover.
  uint64_t page() const { return offset / AsyncReads::kAlignment * AsyncReads::kAlignment; }
  uint64_t page_end() const {
    const uint64_t end = offset + bytes() + AsyncReads::kAlignment - 1;
    return end / AsyncReads::kAlignment * AsyncReads::kAlignment;
  }
};

namespace {

// Whether an entry that was read is the one that was asked for.
Status Check(const ReadRequest& request, const EntryHeader& header) {
  const uint64_t checksum = Block::Checksum(header, request.record, request.record_bytes,
                                            request.sequence, request.position);
  if (header.checksum != checksum) {
    return Mismatch(PositionOf(request.position), header.checksum, checksum);
  }
  if (header.id == request.id && header.row == request.row) return {};
  return Corrupt(PositionOf(request.position) + ": expected id " + std::to_string(request.id) +
                 " row " + std::to_string(request.row) + ", found id " + std::to_string(header.id) +
                 " row " + std::to_string(header.row));
}

}  // namespace

Result<std::unique_ptr<BlockReader>> BlockReader::Open(const Database* database) {
  const std::string file = database->file();
  const int fd = Env::Get().Open(file.c_str(), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return IoError(errno, file, "open it for reading");
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);  // advice: a refusal costs speed only
  const int direct_fd = Env::Get().Open(file.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT, 0);
  return std::unique_ptr<BlockReader>(new BlockReader(database, fd, direct_fd));
}

BlockReader::~BlockReader() {
  Env::Get().Close(fd_);
  if (direct_fd_ >= 0) Env::Get().Close(direct_fd_);
}

Status BlockReader::Name(const Status& failure, Sequence sequence) const {
  if (failure.code() != Code::kCorrupt && failure.code() != Code::kIo) return failure;
  std::string table = "unknown";
  if (auto view = database_->Read(); view.ok()) {
    auto ids = view.value()->Get(kIds, KeyOf(sequence));
    if (ids.ok() && ids.value() && ids.value()->size() >= sizeof(uint32_t)) {
      uint32_t number;
      std::memcpy(&number, ids.value()->data(), sizeof(number));
      table = std::to_string(number);
    }
  }
  return {failure.code(),
          database_->file() + ": table " + table + ", block " + std::to_string(sequence) + ", " +
              failure.message() + ". `recis-ckpt verify " + database_->path() +
              "` lists the damage; restore from a snapshot.",
          failure.error_number()};
}

void BlockReader::Count(int64_t bytes) {
  reads_.fetch_add(1, std::memory_order_relaxed);
  bytes_read_.fetch_add(bytes, std::memory_order_relaxed);
}

Status BlockReader::ReadBytes(const iovec* parts, int count, uint64_t offset,
                              const std::string& what) {
  ssize_t wanted = 0;
  for (int i = 0; i < count; ++i) wanted += static_cast<ssize_t>(parts[i].iov_len);
  ssize_t got;
  do {
    got = Env::Get().Preadv(fd_, parts, count, static_cast<off_t>(offset));
  } while (got < 0 && errno == EINTR);
  const int failed = errno;
  Count(std::max<ssize_t>(got, 0));
  if (got == wanted) return {};
  const std::string place = what + ": expected " + std::to_string(wanted) + " bytes at " +
                            std::to_string(offset) + " of the file, found ";
  if (got < 0) return Io(failed, place + "an error: " + std::strerror(failed));
  return Corrupt(place + std::to_string(got));
}

Status BlockReader::ReadEntry(const Entry& entry) {
  const ReadRequest& request = *entry.request;
  EntryHeader header;
  const iovec parts[] = {{&header, sizeof(header)}, {request.record, request.record_bytes}};
  RECIS_RETURN_IF_ERROR(ReadBytes(parts, 2, entry.offset, PositionOf(request.position)));
  return Check(request, header);
}

Status BlockReader::Read(const ReadRequest* requests, int64_t n) {
  if (n == 0) return {};
  Sequence sequence = 0;
  Status status = ReadSorted(requests, n, &sequence);
  return status.ok() ? status : Name(status, sequence);
}

Status BlockReader::ReadSorted(const ReadRequest* requests, int64_t n, Sequence* sequence) {
  std::vector<Entry> entries(static_cast<size_t>(n));
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i] = {requests[i].sequence, requests[i].position, 1, requests + i, 0};
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.sequence, a.position) < std::pair(b.sequence, b.position);
  });
  Result<View> view = database_->Read();  // pins the blocks until all are read
  if (!view.ok()) return view.status();
  RECIS_RETURN_IF_ERROR(Place(view.value(), &entries, sequence));
  view.value().Unlock();
  if (!Env::IsSystem()) return ReadAhead(entries, sequence);

  std::unique_ptr<AsyncReads> reads = direct_fd_ < 0 ? nullptr : AsyncReads::Take();
  if (!reads) return ReadAhead(entries, sequence);
  std::vector<Entry> large;
  std::erase_if(entries, [&](const Entry& entry) {
    if (entry.page_end() - entry.page() <= AsyncReads::kMaxBytes) return false;
    large.push_back(entry);
    return true;
  });
  const Status status = ReadDirectly(view.value(), *reads, &entries, sequence);
  AsyncReads::GiveBack(std::move(reads));
  return status.ok() ? ReadAhead(large, sequence) : status;
}

Status BlockReader::Place(const View& view, std::vector<Entry>* entries, Sequence* sequence) const {
  std::string_view value;
  for (Entry& entry : *entries) {
    const ReadRequest& request = *entry.request;
    const auto place = [&](uint64_t block) {
      entry.offset = block + Block::OffsetOf(request.position, request.record_bytes);
    };
    // Looking the block up may cost a read of the tree; so its place is kept.
    uint64_t known = 0;
    if (request.block_offset != nullptr) {
      known = std::atomic_ref<uint64_t>(*request.block_offset).load(std::memory_order_relaxed);
    }
    if (known != 0) {
      place(known);
      continue;
    }
    if (request.sequence != *sequence || value.empty()) {
      *sequence = request.sequence;
      auto found = view->Get(kBlocks, KeyOf(request.sequence));
      if (!found.ok()) return found.status();
      if (!found.value()) return Corrupt(PositionOf(request.position) + ": found no such block");
      value = *found.value();
    }
    const size_t begin = Block::OffsetOf(request.position, request.record_bytes);
    if (begin > value.size() || entry.bytes() > value.size() - begin) {
      return Corrupt(PositionOf(request.position) + ": expected " + std::to_string(entry.bytes()) +
                     " bytes at " + std::to_string(begin) + " of the block, found a block of " +
                     std::to_string(value.size()));
    }
    place(view.OffsetOf(value));
    if (request.block_offset != nullptr) {
      std::atomic_ref<uint64_t>(*request.block_offset)
          .store(view.OffsetOf(value), std::memory_order_relaxed);
    }
  }
  return {};
}

// Whatever is not right shows again, and is named, when the entry is read the plain way.
bool BlockReader::ReadCached(const Entry& entry) {
  EntryHeader header;
  const iovec parts[] = {{&header, sizeof(header)},
                         {entry.request->record, entry.request->record_bytes}};
  const ssize_t got = preadv2(fd_, parts, 2, static_cast<off_t>(entry.offset), RWF_NOWAIT);
  if (got != static_cast<ssize_t>(entry.bytes()) || !Check(*entry.request, header).ok()) {
    return false;
  }
  Count(got);
  return true;
}

Status BlockReader::ReadDirectly(const View& view, AsyncReads& reads, std::vector<Entry>* entries,
                                 Sequence* sequence) {
  Status status;
  const auto end = entries->end();
  auto next = entries->begin();
  while (!reads.empty() || (next != end && status.ok())) {
    while (next != end && !reads.full() && status.ok()) {
      const auto first = next++;
      // Asked here, while other reads are on their way.
      if (view.Cached(first->offset, first->bytes()) && ReadCached(*first)) continue;
      // A disk takes longer for two reads than for one twice as long.
      uint64_t page_end = first->page_end();
      for (; next != end && next->page() >= first->page() && next->page() <= page_end &&
             next->page_end() - first->page() <= AsyncReads::kMaxBytes;
           ++next) {
        page_end = next->page_end();
        ++first->together;
      }
      reads.Add(static_cast<uint64_t>(first - entries->begin()), direct_fd_, first->page(),
                page_end - first->page());
      direct_reads_.fetch_add(1, std::memory_order_relaxed);
    }
    if (reads.empty()) break;
    for (const AsyncReads::Done& done : reads.Wait()) {
      const Entry* first = entries->data() + done.tag;
      for (const Entry* entry = first; entry != first + first->together; ++entry) {
        if (!status.ok()) break;  // wait for the others all the same
        status = Take(*entry, done.data + (entry->offset - first->page()),
                      done.result - static_cast<int64_t>(entry->offset - first->page()));
        if (!status.ok()) *sequence = entry->sequence;
      }
    }
  }
  return status;
}

Status BlockReader::Take(const Entry& entry, const std::byte* data, int64_t bytes) {
  if (bytes < static_cast<int64_t>(entry.bytes())) return ReadEntry(entry);
  EntryHeader header;
  std::memcpy(&header, data, sizeof(header));
  std::memcpy(entry.request->record, data + sizeof(header), entry.request->record_bytes);
  Count(static_cast<int64_t>(entry.bytes()));
  return Check(*entry.request, header);
}

Status BlockReader::ReadAhead(const std::vector<Entry>& entries, Sequence* sequence) {
  size_t announced = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    for (; announced < std::min(i + kAhead, entries.size()); ++announced) {
      posix_fadvise(fd_, static_cast<off_t>(entries[announced].offset),
                    static_cast<off_t>(entries[announced].bytes()), POSIX_FADV_WILLNEED);
    }
    *sequence = entries[i].request->sequence;
    RECIS_RETURN_IF_ERROR(ReadEntry(entries[i]));
  }
  return {};
}

Status BlockReader::ReadBlock(const BlockLiveness& block, std::vector<std::byte>* value) {
  Status status = ReadValue(block, value);
  return status.ok() ? status : Name(status, block.sequence);
}

Status BlockReader::ReadValue(const BlockLiveness& block, std::vector<std::byte>* value) {
  Result<View> view = database_->Read();
  if (!view.ok()) return view.status();
  auto found = view.value()->Get(kBlocks, KeyOf(block.sequence));
  if (!found.ok()) return found.status();
  if (!found.value()) return Corrupt("header: found no such block");
  const uint64_t offset = view.value().OffsetOf(*found.value());
  value->resize(found.value()->size());
  view.value().Unlock();

  const iovec part{value->data(), value->size()};
  RECIS_RETURN_IF_ERROR(ReadBytes(&part, 1, offset, "header"));
  BlockHeader header;
  if (value->size() < sizeof(header)) {
    return Corrupt("header: expected 64 bytes, found " + std::to_string(value->size()));
  }
  std::memcpy(&header, value->data(), sizeof(header));
  if (header.checksum != header.Checksum()) {
    return Mismatch("header", header.checksum, header.Checksum());
  }
  const BlockHeader expected;
  if (header.magic != expected.magic || header.version != expected.version ||
      header.table != block.table || header.rows != block.rows ||
      header.sequence != block.sequence || header.record_bytes != block.record_bytes ||
      header.rows > (value->size() - sizeof(header)) / (sizeof(EntryHeader) + block.record_bytes)) {
    return Corrupt("header: expected " + std::to_string(block.rows) + " records of " +
                   std::to_string(block.record_bytes) + " bytes of table " +
                   std::to_string(block.table) + ", found " + std::to_string(header.rows) + " of " +
                   std::to_string(header.record_bytes) + " of table " +
                   std::to_string(header.table) + " in block " + std::to_string(header.sequence));
  }
  for (uint32_t i = 0; i < header.rows; ++i) {
    const std::byte* at = value->data() + Block::OffsetOf(i, header.record_bytes);
    EntryHeader entry;
    std::memcpy(&entry, at, sizeof(entry));
    const uint64_t checksum =
        Block::Checksum(entry, at + sizeof(entry), header.record_bytes, block.sequence, i);
    if (entry.checksum != checksum) return Mismatch(PositionOf(i), entry.checksum, checksum);
  }
  return {};
}

}  // namespace recis
