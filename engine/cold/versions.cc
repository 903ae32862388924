#include "cold/versions.h"

#include <algorithm>
#include <cstring>

#include "xxhash.h"

namespace recis {
namespace {

struct Header {
  uint64_t checksum;  // xxh3 of what follows
  uint64_t count;
};
struct Entry {
  uint64_t epoch;
  uint64_t bytes;
};

uint64_t ChecksumOf(std::string_view stored) {
  stored.remove_prefix(offsetof(Header, count));
  return XXH3_64bits(stored.data(), stored.size());
}

}  // namespace

std::optional<Versions> Versions::Parse(std::string_view stored) {
  Header header;
  if (stored.size() < sizeof(header)) return {};
  std::memcpy(&header, stored.data(), sizeof(header));
  if (header.checksum != ChecksumOf(stored)) return {};
  stored.remove_prefix(sizeof(header));
  if (header.count > stored.size() / sizeof(Entry)) return {};
  std::string_view bytes = stored.substr(header.count * sizeof(Entry));
  Versions result;
  for (uint64_t i = 0; i < header.count; ++i) {
    Entry entry;
    std::memcpy(&entry, stored.data() + i * sizeof(entry), sizeof(entry));
    if (entry.bytes > bytes.size()) return {};
    result.versions_.push_back({entry.epoch, std::string(bytes.substr(0, entry.bytes))});
    bytes.remove_prefix(entry.bytes);
  }
  return result;
}

std::string Versions::Serialize() const {
  Header header{0, versions_.size()};
  std::string stored(reinterpret_cast<const char*>(&header), sizeof(header));
  for (const Version& version : versions_) {
    const Entry entry{version.epoch, version.bytes.size()};
    stored.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
  }
  for (const Version& version : versions_) stored += version.bytes;
  header.checksum = ChecksumOf(stored);
  std::memcpy(stored.data(), &header, sizeof(header));
  return stored;
}

std::string_view Versions::At(uint64_t epoch) const {
  std::string_view found;
  for (const Version& version : versions_) {
    if (version.epoch <= epoch) found = version.bytes;
  }
  return found;
}

void Versions::Put(uint64_t epoch, std::string bytes, uint64_t oldest) {
  if (!versions_.empty() && versions_.back().epoch == epoch) versions_.pop_back();
  while (versions_.size() > 1 && versions_[1].epoch <= oldest) versions_.erase(versions_.begin());
  versions_.push_back({epoch, std::move(bytes)});
}

bool Versions::RevertTo(uint64_t epoch) {
  return std::erase_if(versions_, [&](const Version& v) { return v.epoch > epoch; }) != 0;
}

bool Versions::EmptyFrom(uint64_t oldest) const {
  return At(oldest).empty() && std::all_of(versions_.begin(), versions_.end(), [&](const auto& v) {
           return v.epoch <= oldest || v.bytes.empty();
         });
}

}  // namespace recis
