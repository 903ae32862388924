#include "cold/directory.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iterator>
#include <set>
#include <system_error>

#include "base/env.h"

namespace recis {
namespace {

namespace fs = std::filesystem;

struct FileSystem {
  uint32_t magic;
  const char* name;
};
// From linux/magic.h and the file systems' own sources. FUSE may be a local disk, but the kernel
// does not say.
constexpr FileSystem kNetworkFileSystems[] = {
    {0x00006969, "NFS"},  {0x0000517b, "SMB"},   {0xff534d42, "CIFS"},   {0xfe534d42, "SMB2"},
    {0x01021997, "9P"},   {0x65735546, "FUSE"},  {0x00c36400, "Ceph"},   {0x0bd00bd0, "Lustre"},
    {0x5346414f, "AFS"},  {0x6b414653, "kAFS"},  {0x73757245, "Coda"},   {0x47504653, "GPFS"},
    {0x01161970, "GFS2"}, {0x7461636f, "OCFS2"}, {0x19830326, "BeeGFS"}, {0x0000564c, "NCP"},
};

}  // namespace

std::string ParentOf(const std::string& path) {
  std::error_code failed;
  fs::path whole = fs::absolute(path, failed).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // it ended with a slash
  return whole.parent_path().string();
}

Status PrepareDirectory(const std::string& path, bool scratch, bool read_only, bool network) {
  if (!read_only && Env::Get().Mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) {
    if (errno != ENOENT) return IoError(errno, path, "make the directory");
    return Io(ENOENT, path + ": " + ParentOf(path) + " is not there. Make it first.");
  }
  struct statfs info{};
  if (Env::Get().Statfs(path.c_str(), &info) != 0) return IoError(errno, path, "open the store");
  for (const FileSystem& file_system : kNetworkFileSystems) {
    if (network || static_cast<uint32_t>(info.f_type) != file_system.magic) continue;
    return Unavailable(path + ": lies on " + file_system.name +
                       ", where locks, mappings and syncs cannot be relied on. Use a local disk, "
                       "or open it with network=True.");
  }

  std::error_code failed;
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(path, failed)) {
    names.insert(entry.path().filename().string());
  }
  if (failed) return IoError(failed.value(), path, "list the directory");
  const char* const other = scratch ? kDataFile : kScratchFile;
  if (names.contains(other)) {
    return InvalidArgument(path + ": holds a " + (scratch ? "durable" : "scratch") +
                           " store. Open it as one, or choose another directory.");
  }
  if (names.contains(scratch ? kScratchFile : kDataFile)) return {};
  if (read_only) return Io(ENOENT, path + ": there is no store to read: no " + kDataFile + ".");
  // What an open that was cut short may have left.
  for (const char* ours : {"LOCK", "lock.mdb", "data.mdb.new", "scratch.mdb-lock"})
    names.erase(ours);
  if (!names.empty()) {
    return InvalidArgument(path + ": is not a store and not empty (" + *names.begin() +
                           "). Choose an empty directory.");
  }
  return {};
}

}  // namespace recis
