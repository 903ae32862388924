// Tells a process from the children it forks.
//
// Threads: any.
#pragma once

#include <cstdint>

namespace recis {

// How often this process is the child of a fork, counted from the first call: whoever keeps
// the number of an earlier moment sees that it is now in a child.
uint64_t ForkGeneration();

}  // namespace recis
