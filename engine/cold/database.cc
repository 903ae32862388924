#include "cold/database.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/env.h"
#include "cold/directory.h"
#include "cold/sync_failures.h"

namespace recis {
namespace {

constexpr const char* kNames[kDbCount] = {"blocks", "ids", "live", "meta"};
constexpr unsigned kFlags[kDbCount] = {MDB_INTEGERKEY, MDB_INTEGERKEY, MDB_INTEGERKEY, 0};
constexpr char kFormatKey[] = "format";
constexpr unsigned kMaxReaders = 1022;
#if defined(RECIS_SYSTEM_LMDB)
constexpr bool kSystemLmdb = true;
#else
constexpr bool kSystemLmdb = false;
#endif
constexpr size_t kSmallestMap = size_t{1} << 20;

MDB_val ToVal(std::string_view bytes) { return {bytes.size(), const_cast<char*>(bytes.data())}; }
std::string_view ToView(const MDB_val& value) {
  return {static_cast<const char*>(value.mv_data), value.mv_size};
}

// A quarter of the limit, where there is one: the rest of the process needs some too.
size_t AddressSpace(size_t wanted) {
  rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return wanted;
  return std::min<size_t>(wanted, limit.rlim_cur / 4);
}

}  // namespace

std::string_view KeyOf(const uint64_t& sequence) {
  return {reinterpret_cast<const char*>(&sequence), sizeof(sequence)};
}

uint64_t SequenceOf(std::string_view key) {
  uint64_t sequence = 0;
  std::memcpy(&sequence, key.data(), std::min(key.size(), sizeof(sequence)));
  return sequence;
}

// ---- Transaction --------------------------------------------------------------------------

Status Transaction::Error(int code, const char* what) const {
  failure_ = code;
  return database_->Error(code, what);
}

Result<std::optional<std::string_view>> Transaction::Get(Db db, std::string_view key) const {
  MDB_val k = ToVal(key), value;
  const int code = mdb_get(txn_, database_->dbs_[db], &k, &value);
  if (code == MDB_NOTFOUND) return std::optional<std::string_view>();
  if (code != 0) return Error(code, "look a value up");
  return std::optional<std::string_view>(ToView(value));
}

Status Transaction::PutWith(unsigned flags, Db db, std::string_view key, std::string_view value) {
  MDB_val k = ToVal(key), v = ToVal(value);
  const int code = mdb_put(txn_, database_->dbs_[db], &k, &v, flags);
  return code == 0 ? Status() : Error(code, "write a value");
}

Status Transaction::Put(Db db, std::string_view key, std::string_view value) {
  return PutWith(0, db, key, value);
}

Status Transaction::Append(Db db, std::string_view key, std::string_view value) {
  return PutWith(MDB_APPEND, db, key, value);
}

Status Transaction::Delete(Db db, std::string_view key) {
  MDB_val k = ToVal(key);
  const int code = mdb_del(txn_, database_->dbs_[db], &k, nullptr);
  return code == 0 || code == MDB_NOTFOUND ? Status() : Error(code, "delete a value");
}

Status Transaction::ForEach(
    Db db, std::string_view prefix,
    const std::function<Status(std::string_view, std::string_view)>& use) const {
  MDB_cursor* cursor;
  int code = mdb_cursor_open(txn_, database_->dbs_[db], &cursor);
  if (code != 0) return Error(code, "list values");
  const std::unique_ptr<MDB_cursor, decltype(&mdb_cursor_close)> closer(cursor, mdb_cursor_close);
  MDB_val key = ToVal(prefix), value;
  code = mdb_cursor_get(cursor, &key, &value, prefix.empty() ? MDB_FIRST : MDB_SET_RANGE);
  for (; code == 0 && ToView(key).starts_with(prefix);
       code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
    RECIS_RETURN_IF_ERROR(use(ToView(key), ToView(value)));
  }
  return code == 0 || code == MDB_NOTFOUND ? Status() : Error(code, "list values");
}

Result<uint64_t> Transaction::LastSequence(Db db) const {
  MDB_cursor* cursor;
  int code = mdb_cursor_open(txn_, database_->dbs_[db], &cursor);
  if (code != 0) return Error(code, "find the last block");
  MDB_val key, value;
  code = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
  const uint64_t last = code == 0 ? SequenceOf(ToView(key)) : 0;
  mdb_cursor_close(cursor);
  if (code != 0 && code != MDB_NOTFOUND) return Error(code, "find the last block");
  return last;
}

// ---- View ---------------------------------------------------------------------------------

View::View(View&& other) noexcept
    : transaction_(other.transaction_),
      owned_(std::exchange(other.owned_, false)),
      map_(std::move(other.map_)),
      lookup_(std::move(other.lookup_)) {}

View::~View() {
  if (owned_) mdb_txn_abort(transaction_.txn_);
}

uint64_t View::OffsetOf(std::string_view value) const {
  return reinterpret_cast<uintptr_t>(value.data()) - transaction_.database_->map_;
}

bool View::Cached(uint64_t offset, size_t bytes) const {
  const Database& database = *transaction_.database_;
  const uint64_t page = database.page_bytes_, begin = offset / page * page;
  unsigned char resident[8];
  const size_t pages = (offset + bytes - begin + page - 1) / page;
  if (pages > sizeof(resident)) return false;
  if (mincore(reinterpret_cast<void*>(database.map_ + begin), pages * page, resident) != 0) {
    return false;
  }
  return std::all_of(resident, resident + pages, [](unsigned char in) { return in & 1; });
}

void View::Unlock() {
  if (lookup_.owns_lock()) lookup_.unlock();
}

// ---- Database -----------------------------------------------------------------------------

Status Database::Error(int code, const std::string& what) const {
  switch (code) {
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_PAGE_NOTFOUND:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
      return Corrupt(file() + ": cannot " + what + ": " + mdb_strerror(code) +
                     ". `recis-ckpt verify` lists the damage; restore from a snapshot.");
    case MDB_READERS_FULL:
    case MDB_PANIC:
      return Unavailable(file() + ": cannot " + what + ": " + mdb_strerror(code) +
                         ". Close the store and open it again.");
    case ENOMEM:
      return OutOfMemory(file() + ": cannot " + what + ": " + mdb_strerror(code) + ".");
    default:
      if (code > 0) return IoError(code, file(), what);
      return Unavailable(file() + ": cannot " + what + ": " + mdb_strerror(code) + ".");
  }
}

std::string Database::file() const {
  return options_.path + "/" + (options_.scratch ? kScratchFile : kDataFile);
}

Result<std::unique_ptr<Database>> Database::Open(const Options& options) {
  std::unique_ptr<Database> database(new Database(options));
  if (!options.read_only) {
    if (options.scratch) {
      for (const char* suffix : {"", "-lock"}) {
        const std::string name = database->file() + suffix;
        if (Env::Get().Unlink(name.c_str()) != 0 && errno != ENOENT) {
          return IoError(errno, name, "wipe the scratch store");
        }
      }
    }
    std::error_code failed;
    if (!std::filesystem::exists(database->file(), failed)) {
      RECIS_RETURN_IF_ERROR(database->Create());
    }
    // At every opening: the one that made the names may have been cut short before this.
    if (!options.scratch) {
      RECIS_RETURN_IF_ERROR(SyncDirectory(options.path));
      RECIS_RETURN_IF_ERROR(SyncDirectory(ParentOf(options.path)));
    }
  }
  RECIS_RETURN_IF_ERROR(database->OpenEnvironment());
  RECIS_RETURN_IF_ERROR(database->CheckFormat());
  return database;
}

Status Database::OpenDatabases(MDB_txn* txn, unsigned flags) {
  for (int db = 0; db < kDbCount; ++db) {
    const int code = mdb_dbi_open(txn, kNames[db], kFlags[db] | flags, &dbs_[db]);
    if (code == MDB_NOTFOUND) {
      return InvalidArgument(file() + ": is an LMDB file, but not a store: it has no database '" +
                             kNames[db] + "'. Choose another directory.");
    }
    if (code != 0) return Error(code, std::string("open the database ") + kNames[db]);
  }
  return {};
}

// A file that LMDB was making when the power failed may be anything; one that got its name by
// renaming is whole.
Status Database::Create() {
  const std::string unfinished = file() + ".new";
  if (Env::Get().Unlink(unfinished.c_str()) != 0 && errno != ENOENT) {
    return IoError(errno, unfinished, "remove what an earlier opening left");
  }
  MDB_env* env;
  int code = mdb_env_create(&env);
  if (code != 0) return Error(code, "make the store");
  const std::unique_ptr<MDB_env, decltype(&mdb_env_close)> closer(env, mdb_env_close);
  mdb_env_set_maxdbs(env, kDbCount);
  // No lock file: nobody else knows of this one.
  code = mdb_env_open(env, unfinished.c_str(), MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS, 0666);
  MDB_txn* txn = nullptr;
  if (code == 0) code = mdb_txn_begin(env, nullptr, 0, &txn);
  if (code != 0) return Error(code, "make the store");
  if (Status failed = OpenDatabases(txn, MDB_CREATE); !failed.ok()) {
    mdb_txn_abort(txn);
    return failed;
  }
  const uint32_t format = kFormat;
  MDB_val key = ToVal(kFormatKey), value{sizeof(format), const_cast<uint32_t*>(&format)};
  code = mdb_put(txn, dbs_[kMeta], &key, &value, 0);
  if (code != 0) {
    mdb_txn_abort(txn);
  } else {
    code = mdb_txn_commit(txn);
  }
  if (code != 0) return Error(code, "make the store");
  if (Env::Get().Rename(unfinished.c_str(), file().c_str()) != 0) {
    return IoError(errno, unfinished, "give the new store its name");
  }
  return {};
}

Status Database::OpenEnvironment() {
  unsigned flags = MDB_NOTLS | MDB_NORDAHEAD;
  if (options_.scratch) flags |= MDB_NOSYNC | MDB_NOSUBDIR;
  if (options_.read_only) flags |= MDB_RDONLY;
  const std::string path = options_.scratch ? file() : options_.path;
  size_t map_bytes = std::max(AddressSpace(options_.map_bytes), kSmallestMap);
  int code;
  do {
    if ((code = mdb_env_create(&env_)) != 0) break;
    mdb_env_set_maxdbs(env_, kDbCount);
    mdb_env_set_maxreaders(env_, kMaxReaders);
    mdb_env_set_mapsize(env_, map_bytes);
    if ((code = mdb_env_open(env_, path.c_str(), flags, 0666)) == 0) break;
    mdb_env_close(std::exchange(env_, nullptr));
    map_bytes /= 2;
  } while (code == ENOMEM && map_bytes >= kSmallestMap);
  if (code != 0) return Error(code, "open the store");

  int dead = 0;
  mdb_reader_check(env_, &dead);  // of processes that were killed
  MDB_txn* txn;
  code = mdb_txn_begin(env_, nullptr, MDB_RDONLY, &txn);
  if (code != 0) return Error(code, "open the store");
  if (Status failed = OpenDatabases(txn, 0); !failed.ok()) {
    mdb_txn_abort(txn);
    return failed;
  }
  if ((code = mdb_txn_commit(txn)) != 0) return Error(code, "open the store");
  if (options_.read_only && (code = mdb_txn_begin(env_, nullptr, MDB_RDONLY, &pinned_)) != 0) {
    return Error(code, "open the store");
  }
  MDB_stat stat;
  mdb_env_stat(env_, &stat);
  page_bytes_ = stat.ms_psize;
  return FindMap();
}

// LMDB does not say where its map begins, but every page knows its number, and small values lie
// on a page with their keys.
Status Database::FindMap() {
  map_ = 0;
  MDB_txn* txn = pinned_;
  int code = txn != nullptr ? 0 : mdb_txn_begin(env_, nullptr, MDB_RDONLY, &txn);
  if (code != 0) return Error(code, "map the store");
  MDB_val key = ToVal(kFormatKey), format;
  code = mdb_get(txn, dbs_[kMeta], &key, &format);
  if (code == 0) {
    const auto address = reinterpret_cast<uintptr_t>(format.mv_data);
    const uintptr_t page = address / page_bytes_ * page_bytes_;
    size_t number;
    std::memcpy(&number, reinterpret_cast<const void*>(page), sizeof(number));
    map_ = page - number * page_bytes_;
  }
  if (txn != pinned_) mdb_txn_abort(txn);
  if (code == MDB_NOTFOUND)
    return Corrupt(file() + ": is not a store: it does not say its format.");
  return code == 0 ? Status() : Error(code, "map the store");
}

Status Database::CheckFormat() {
  Result<View> view = Read();
  if (!view.ok()) return view.status();
  auto stored = view.value()->Get(kMeta, kFormatKey);
  if (!stored.ok()) return stored.status();
  uint32_t format = 0;
  if (stored.value()->size() != sizeof(format)) {
    return Corrupt(file() + ": the format must be 4 bytes, not " +
                   std::to_string(stored.value()->size()) + ".");
  }
  std::memcpy(&format, stored.value()->data(), sizeof(format));
  if (format == kFormat) return {};
  return Unavailable(file() + ": has format " + std::to_string(format) +
                     ", this release of recis reads format " + std::to_string(kFormat) +
                     ". Use the release that wrote it, or a newer one.");
}

Database::~Database() {
  if (pinned_ != nullptr) mdb_txn_abort(pinned_);
  if (env_ != nullptr) mdb_env_close(env_);
}

Result<View> Database::Read() const {
  for (;;) {
    View view;
    view.transaction_.database_ = this;
    view.map_ = std::shared_lock(map_mutex_);
    if (map_ == 0)
      return Unavailable(file() + ": its map is lost. Close the store and open it again.");
    if (pinned_ != nullptr) {
      view.lookup_ = std::unique_lock(pinned_mutex_);
      view.transaction_.txn_ = pinned_;
      return view;
    }
    const int code = mdb_txn_begin(env_, nullptr, MDB_RDONLY, &view.transaction_.txn_);
    view.owned_ = code == 0;
    if (code == 0) return view;
    if (code != MDB_PANIC) return Error(code, "begin to read");
    // A writer's meta page failed just now: it is about to pin the state before.
    view.map_.unlock();
    const std::lock_guard<std::mutex> writer(write_mutex_);
  }
}

Status Database::Usable() const {
  std::lock_guard<std::mutex> lock(poison_mutex_);
  return poison_;
}

Status Database::Poison(const Status& cause) {
  std::lock_guard<std::mutex> lock(poison_mutex_);
  if (poison_.ok()) {
    poison_ = Unavailable(cause.message() +
                          " A sync failed, so what is on disk is uncertain and nothing more is "
                          "written. Close the store and open it again: it has its last commit.");
  }
  return poison_;
}

Status Database::Write(const std::function<Status(Transaction&)>& body) {
  std::lock_guard<std::mutex> writer(write_mutex_);
  for (;;) {
    RECIS_RETURN_IF_ERROR(Usable());
    const uint64_t sync_failures = SyncFailures();
    int failure = 0;
    // LMDB begins no transaction once its meta page could not be written: reads would end too.
    MDB_txn* before = nullptr;
    Status status = WriteOnce(body, &before, &failure);
    // A system LMDB makes its calls unseen: any I/O error may have been a sync's.
    if (failure == MDB_PANIC || SyncFailures() != sync_failures ||
        (kSystemLmdb && failure == EIO)) {
      const std::unique_lock map(map_mutex_);
      pinned_ = before;
      return Poison(status);
    }
    if (before != nullptr) mdb_txn_abort(before);
    if (failure != MDB_MAP_FULL) return status;
    RECIS_RETURN_IF_ERROR(GrowMap());
  }
}

Status Database::WriteOnce(const std::function<Status(Transaction&)>& body, MDB_txn** before,
                           int* failure) {
  const std::shared_lock map(map_mutex_);
  Transaction transaction;
  transaction.database_ = this;
  int code = mdb_txn_begin(env_, nullptr, MDB_RDONLY, before);
  if (code == 0) code = mdb_txn_begin(env_, nullptr, 0, &transaction.txn_);
  if (code != 0) {
    *failure = code;
    return Error(code, "begin to write");
  }
  Status status = body(transaction);
  if (!status.ok()) {
    mdb_txn_abort(transaction.txn_);
  } else if ((code = mdb_txn_commit(transaction.txn_)) != 0) {
    status = transaction.Error(code, "commit a transaction");
  } else {
    transactions_.fetch_add(1, std::memory_order_relaxed);
  }
  *failure = transaction.failure_;
  return status;
}

Status Database::GrowMap() {
  std::unique_lock map(map_mutex_);  // waits until nobody looks at the map
  MDB_envinfo info;
  mdb_env_info(env_, &info);
  const size_t now = info.me_mapsize;
  int code = ENOMEM;
  // LMDB lets go of the old map first, so where nothing larger is to be had the old size is.
  for (const size_t bytes : {now * 2, now + now / 4, now}) {
    if (code != 0) code = mdb_env_set_mapsize(env_, bytes);
  }
  if (code != 0) {
    map_ = 0;
    return Poison(Error(code, "enlarge the map"));
  }
  mdb_env_info(env_, &info);
  RECIS_RETURN_IF_ERROR(FindMap());
  if (info.me_mapsize > now) return {};
  return OutOfMemory(file() + ": the system refuses address space for more than " +
                     std::to_string(now) + " bytes of the store. Raise RLIMIT_AS.");
}

int64_t Database::file_bytes() const {
  std::shared_lock map(map_mutex_);
  if (map_ == 0) return 0;
  MDB_envinfo info;
  mdb_env_info(env_, &info);
  return static_cast<int64_t>((info.me_last_pgno + 1) * page_bytes_);
}

int64_t Database::free_bytes() const {
  constexpr MDB_dbi kFreePages = 0;  // LMDB's own list: {count, page numbers} by transaction
  Result<View> view = Read();
  if (!view.ok()) return 0;
  MDB_cursor* cursor;
  if (mdb_cursor_open(view.value().transaction_.txn_, kFreePages, &cursor) != 0) return 0;
  size_t pages = 0;
  MDB_val key, value;
  while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
    size_t count;
    std::memcpy(&count, value.mv_data, sizeof(count));
    pages += count;
  }
  mdb_cursor_close(cursor);
  return static_cast<int64_t>(pages * page_bytes_);
}

}  // namespace recis
