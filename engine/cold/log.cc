#include "cold/log.h"

#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "base/fork.h"
#include "cold/block_reader.h"
#include "cold/block_writer.h"
#include "cold/database.h"
#include "cold/directory.h"
#include "cold/epochs.h"
#include "cold/lock.h"

namespace recis {

// In the order in which they are needed: the lock is let go of last.
struct Log::Rooms {
  std::unique_ptr<DirectoryLock> lock;
  std::unique_ptr<Database> database;
  std::unique_ptr<recis::Epochs> epochs;
  std::unique_ptr<BlockReader> reader;
  std::unique_ptr<BlockWriter> writer;  // not if read_only
  std::mutex commit_mutex;
};

Log::Log(LogOptions options)
    : options_(std::move(options)),
      fork_generation_(ForkGeneration()),
      rooms_(std::make_unique<Rooms>()) {}

// In a child the writing thread is not there, and a lock may be held for good.
Log::~Log() {
  if (ForkGeneration() != fork_generation_) (void)rooms_.release();
}

Result<std::unique_ptr<Log>> Log::Open(LogOptions options) {
  if (options.scratch && (options.read_only || options.epoch)) {
    return InvalidArgument(options.path +
                           ": a scratch store is wiped when it is opened, so there "
                           "is nothing to read and no epoch in it.");
  }
  while (options.path.size() > 1 && options.path.ends_with('/')) options.path.pop_back();
  std::unique_ptr<Log> log(new Log(std::move(options)));
  const LogOptions& o = log->options_;
  Rooms& rooms = *log->rooms_;
  RECIS_RETURN_IF_ERROR(PrepareDirectory(o.path, o.scratch, o.read_only, o.network));
  auto lock = DirectoryLock::Acquire(o.path, o.read_only);
  if (!lock.ok()) return lock.status();
  rooms.lock = std::move(lock.value());
  auto database = Database::Open({o.path, o.scratch, o.read_only, o.map_bytes});
  if (!database.ok()) return database.status();
  rooms.database = std::move(database.value());
  rooms.epochs = std::make_unique<recis::Epochs>(rooms.database.get());
  RECIS_RETURN_IF_ERROR(rooms.epochs->Load(o.epoch));
  auto reader = BlockReader::Open(rooms.database.get());
  if (!reader.ok()) return reader.status();
  rooms.reader = std::move(reader.value());
  if (!o.read_only) {
    auto next = rooms.epochs->Recover();
    if (!next.ok()) return next.status();
    rooms.writer = std::make_unique<BlockWriter>(rooms.database.get(), next.value(),
                                                 o.transaction_bytes, o.queue_bytes);
  }
  return log;
}

Status Log::Usable() const {
  if (ForkGeneration() == fork_generation_) return {};
  return Unavailable(options_.path +
                     ": the store was opened by another process, of which this one "
                     "(pid " +
                     std::to_string(getpid()) + ") is a forked child. Use it there.");
}

Status Log::Writable() const {
  RECIS_RETURN_IF_ERROR(Usable());
  if (!options_.read_only) return {};
  return Unavailable(options_.path + ": the store is open read-only. Open it for writing.");
}

// ---- blocks -------------------------------------------------------------------------------

Sequence Log::NextSequence() { return Writable().ok() ? rooms_->writer->NextSequence() : 0; }

Sequence Log::EndSequence() const { return Writable().ok() ? rooms_->writer->EndSequence() : 0; }

void Log::Append(std::shared_ptr<Block> block, size_t queue_bytes) {
  if (Writable().ok()) rooms_->writer->Append(std::move(block), queue_bytes);
}

Status Log::Ready() {
  RECIS_RETURN_IF_ERROR(Writable());
  return rooms_->writer->Ready();
}

Sequence Log::durable() const { return Writable().ok() ? rooms_->writer->durable() : 0; }

Status Log::Drain() {
  RECIS_RETURN_IF_ERROR(Writable());
  return rooms_->writer->Drain();
}

void Log::Discard(Sequence sequence) {
  if (Writable().ok()) rooms_->writer->Discard(sequence);
}

Status Log::Read(const ReadRequest* requests, int64_t n) const {
  RECIS_RETURN_IF_ERROR(Usable());
  return rooms_->reader->Read(requests, n);
}

Status Log::ReadBlock(const BlockLiveness& block, std::vector<std::byte>* value) const {
  RECIS_RETURN_IF_ERROR(Usable());
  return rooms_->reader->ReadBlock(block, value);
}

// ---- epochs -------------------------------------------------------------------------------

Result<Epoch> Log::Commit(const Changes& changes, Sequence end) {
  RECIS_RETURN_IF_ERROR(Writable());
  if (options_.scratch) {
    return InvalidArgument(options_.path +
                           ": a scratch store cannot be committed: nothing in it "
                           "outlives the process. Open a durable one.");
  }
  std::lock_guard<std::mutex> lock(rooms_->commit_mutex);
  RECIS_RETURN_IF_ERROR(rooms_->writer->Drain());
  std::vector<Garbage> garbage;
  Result<Epoch> epoch = rooms_->epochs->Commit(changes, end, &garbage);
  if (epoch.ok()) rooms_->writer->Collect(std::move(garbage));
  return epoch;
}

std::vector<Epoch> Log::Epochs() const {
  return Usable().ok() ? rooms_->epochs->All() : std::vector<Epoch>();
}

std::optional<Epoch> Log::Current() const {
  return Usable().ok() ? rooms_->epochs->Current() : std::optional<Epoch>();
}

Status Log::ForEachBlock(const std::function<void(const BlockLiveness&)>& use) const {
  RECIS_RETURN_IF_ERROR(Usable());
  return rooms_->epochs->ForEachBlock(use);
}

Status Log::ReadIds(
    const std::vector<Sequence>& blocks,
    const std::function<void(Sequence, const int64_t*, const Row*, uint32_t)>& use) const {
  RECIS_RETURN_IF_ERROR(Usable());
  return rooms_->epochs->ReadIds(blocks, use);
}

Status Log::ForEachValue(const std::string& prefix,
                         const std::function<void(std::string_view, std::string_view)>& use) const {
  RECIS_RETURN_IF_ERROR(Usable());
  return rooms_->epochs->ForEachValue(prefix, use);
}

Result<std::string> Log::State() const {
  RECIS_RETURN_IF_ERROR(Usable());
  return rooms_->epochs->State();
}

LogStats Log::Stats() const {
  if (!Usable().ok()) return {};
  LogStats stats;
  if (rooms_->writer != nullptr) {
    stats.bytes_written = rooms_->writer->bytes_written();
    stats.queued_bytes = rooms_->writer->queued_bytes();
  }
  stats.bytes_read = rooms_->reader->bytes_read();
  stats.reads = rooms_->reader->reads();
  stats.direct_reads = rooms_->reader->direct_reads();
  stats.transactions = rooms_->database->transactions();
  stats.file_bytes = rooms_->database->file_bytes();
  stats.free_bytes = rooms_->database->free_bytes();
  return stats;
}

}  // namespace recis
