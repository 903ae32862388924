// Whether LMDB met a failed sync, which its error codes do not tell.
#pragma once

#include <cstdint>

namespace recis {

// Failed syncs of LMDB on the calling thread so far, and failed writes that were to sync.
// A system LMDB makes its calls unseen, and this stays 0.
uint64_t SyncFailures();

}  // namespace recis
