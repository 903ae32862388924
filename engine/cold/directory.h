// The directory of a store: whether it is one, and whether it can be.
//
// Threads: any.
#pragma once

#include <string>

#include "base/status.h"

namespace recis {

inline constexpr char kDataFile[] = "data.mdb";
inline constexpr char kScratchFile[] = "scratch.mdb";

// Makes the directory if it is not there, and refuses one that holds something else, a store of
// the other durability, or, unless `network`, one on a file system without dependable locks,
// mappings and syncs.
Status PrepareDirectory(const std::string& path, bool scratch, bool read_only, bool network);

std::string ParentOf(const std::string& path);

}  // namespace recis
