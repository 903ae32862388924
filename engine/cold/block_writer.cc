#include "cold/block_writer.h"

#include <algorithm>
#include <cstring>

#include "base/yield.h"
#include "xxhash.h"

namespace recis {
namespace {

// Each touches a page of every database, and a transaction holds 131,071 dirty pages.
constexpr size_t kRemovalsPerTransaction = 4096;

std::string IdsOf(const Block& block) {
  const uint32_t rows = block.rows();
  std::string value(sizeof(IdsHeader) + rows * (sizeof(int64_t) + sizeof(Row)), '\0');
  char* const ids = value.data() + sizeof(IdsHeader);
  char* const numbers = ids + rows * sizeof(int64_t);
  for (uint32_t i = 0; i < rows; ++i) {
    const int64_t id = block.id(i);
    const Row row = block.row(i);
    std::memcpy(ids + i * sizeof(id), &id, sizeof(id));
    std::memcpy(numbers + i * sizeof(row), &row, sizeof(row));
  }
  const IdsHeader header{block.table(), rows, XXH3_64bits(ids, value.size() - sizeof(IdsHeader))};
  std::memcpy(value.data(), &header, sizeof(header));
  return value;
}

}  // namespace

Status Remove(const Garbage& garbage, Transaction& transaction) {
  RECIS_RETURN_IF_ERROR(transaction.Delete(garbage.db, garbage.key));
  if (garbage.db != kBlocks) return {};
  RECIS_RETURN_IF_ERROR(transaction.Delete(kIds, garbage.key));
  return transaction.Delete(kLive, garbage.key);
}

BlockWriter::BlockWriter(Database* database, Sequence next, size_t transaction_bytes,
                         size_t queue_bytes)
    : database_(database),
      transaction_bytes_(transaction_bytes),
      queue_bytes_(queue_bytes),
      next_(next),
      appended_(next),
      durable_(next),
      thread_(&BlockWriter::Run, this) {}

BlockWriter::~BlockWriter() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  work_.notify_one();
  thread_.join();
}

Sequence BlockWriter::NextSequence() {
  std::lock_guard<std::mutex> lock(mutex_);
  return next_++;
}

template <class Done>
Status BlockWriter::Flush(std::unique_lock<std::mutex>& lock, Done done) {
  failure_ = Status();
  ++flushing_;
  work_.notify_one();
  progress_.wait(lock, [&] { return done() || !failure_.ok(); });
  --flushing_;
  return done() ? Status() : failure_;
}

Sequence BlockWriter::EndSequence() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return next_;
}

void BlockWriter::Append(std::shared_ptr<Block> block, size_t queue_bytes) {
  Yielding<std::unique_lock<std::mutex>> lock(mutex_);
  RECIS_CHECK(block->sequence() >= appended_ && block->sequence() < next_);
  appended_ = block->sequence() + 1;
  queued_bytes_ += block->value_bytes();
  queue_.push_back(std::move(block));
  if (Due()) work_.notify_one();
  progress_.wait(lock, [&] { return queued_bytes_ <= queue_bytes || !failure_.ok(); });
}

Status BlockWriter::Ready() {
  RECIS_RETURN_IF_ERROR(database_->Usable());
  Yielding<std::unique_lock<std::mutex>> lock(mutex_);
  const auto fits = [this] { return queued_bytes_ <= queue_bytes_; };
  // Too much that is being written is for Append() to wait for: a commit queues more on purpose.
  return fits() || failure_.ok() ? Status() : Flush(lock, fits);
}

Sequence BlockWriter::durable() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return durable_;
}

Status BlockWriter::Drain() {
  RECIS_RETURN_IF_ERROR(database_->Usable());
  Yielding<std::unique_lock<std::mutex>> lock(mutex_);
  const Sequence end = appended_;
  auto done = [&] { return durable_ >= end && garbage_.empty(); };
  return done() ? Status() : Flush(lock, done);
}

void BlockWriter::Discard(Sequence sequence) {
  std::shared_ptr<Block> block;  // let go of without the lock
  std::lock_guard<std::mutex> lock(mutex_);
  const auto waiting = queue_.begin() + static_cast<ptrdiff_t>(being_written_);
  const auto found =
      std::find_if(waiting, queue_.end(), [&](const auto& b) { return b->sequence() == sequence; });
  if (found == queue_.end()) {
    garbage_.push_back({kBlocks, std::string(KeyOf(sequence))});
    return;
  }
  block = std::move(*found);
  queue_.erase(found);
  queued_bytes_ -= block->value_bytes();
  if (queue_.empty()) durable_ = appended_;
  progress_.notify_all();
}

void BlockWriter::Collect(std::vector<Garbage> garbage) {
  std::lock_guard<std::mutex> lock(mutex_);
  garbage_.insert(garbage_.end(), std::make_move_iterator(garbage.begin()),
                  std::make_move_iterator(garbage.end()));
}

int64_t BlockWriter::queued_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(queued_bytes_);
}

int64_t BlockWriter::bytes_written() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(written_bytes_);
}

bool BlockWriter::Due() const {
  if (!failure_.ok()) return false;
  if (flushing_ > 0) return !queue_.empty() || !garbage_.empty();
  return queued_bytes_ >= transaction_bytes_;
}

void BlockWriter::Run() {
  Yielding<std::unique_lock<std::mutex>> lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return closing_ || Due(); });
    if (closing_) return;
    std::vector<std::shared_ptr<Block>> blocks;
    size_t bytes = 0;
    for (; blocks.size() < queue_.size() && bytes < transaction_bytes_;
         bytes += blocks.back()->value_bytes()) {
      blocks.push_back(queue_[blocks.size()]);
    }
    being_written_ = blocks.size();
    being_removed_ = std::min(garbage_.size(), kRemovalsPerTransaction);
    const auto removed_end = garbage_.begin() + static_cast<ptrdiff_t>(being_removed_);
    const std::vector<Garbage> garbage(garbage_.begin(), removed_end);
    lock.unlock();
    MaybeYield();
    Status status = WriteSome(blocks, garbage);
    lock.lock();
    if (status.ok()) {
      queue_.erase(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(being_written_));
      garbage_.erase(garbage_.begin(), garbage_.begin() + static_cast<ptrdiff_t>(being_removed_));
      queued_bytes_ -= bytes;
      written_bytes_ += bytes;
      if (!blocks.empty()) durable_ = blocks.back()->sequence() + 1;
      if (queue_.empty()) durable_ = appended_;
    }
    being_written_ = being_removed_ = 0;
    failure_ = std::move(status);
    progress_.notify_all();
    lock.unlock();
    blocks.clear();  // the memory goes back before the next transaction, without the lock
    lock.lock();
  }
}

Status BlockWriter::WriteSome(const std::vector<std::shared_ptr<Block>>& blocks,
                              const std::vector<Garbage>& garbage) {
  for (const auto& block : blocks) block->Seal();
  return database_->Write([&](Transaction& transaction) -> Status {
    for (const auto& block : blocks) {
      const Sequence sequence = block->sequence();
      const std::string_view value(reinterpret_cast<const char*>(block->value()),
                                   block->value_bytes());
      RECIS_RETURN_IF_ERROR(transaction.Append(kBlocks, KeyOf(sequence), value));
      RECIS_RETURN_IF_ERROR(transaction.Append(kIds, KeyOf(sequence), IdsOf(*block)));
    }
    for (const Garbage& one : garbage) RECIS_RETURN_IF_ERROR(Remove(one, transaction));
    return {};
  });
}

}  // namespace recis
