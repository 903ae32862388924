// Memory and streams of a device that is not the CPU: a GPU, or the emulated device of tests.
//
// Who works on such a device asks a Space for both, and need not know which one it is. Work is
// enqueued on a stream and done in its order; nothing but Wait() waits for it. A stream is a
// cudaStream_t, torch's current one as a rule; nullptr is the default stream. The emulated device
// has no other, and does everything at once.
//
// Threads: any. Work that two threads enqueue on one stream has no order.
// Invariants: a stream that was used lives as long as what was made on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace recis {

using Stream = void*;

// The stream for what this thread asks tables for from now on; at first the default one.
void UseStream(Stream stream);
Stream StreamInUse();

class Space {
 public:
  virtual ~Space() = default;
  virtual const std::string& name() const = 0;  // "cuda:0"

  // Uninitialised memory for what is enqueued on the stream from now on, 256-byte aligned.
  // REQUIRES: bytes > 0. Fails with kOutOfMemory.
  virtual Result<std::byte*> Allocate(size_t bytes, Stream stream) = 0;
  // Takes it back once what is on the stream so far is done.
  virtual void Free(std::byte* memory, Stream stream) = 0;

  // Memory of the host that copies can read and write while the host goes on: pinned. Slow to get.
  virtual Result<std::byte*> AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(std::byte* memory) = 0;

  // Either end may be the host's; of nothing, null. REQUIRES: then it stays as it is until the copy
  // is done.
  virtual Status Copy(void* to, const void* from, size_t bytes, Stream stream) = 0;
  virtual Status Fill(void* to, uint8_t value, size_t bytes, Stream stream) = 0;

  // A stream beside the default one, which neither waits for the other.
  virtual Result<Stream> NewStream() = 0;
  virtual void FreeStream(Stream stream) = 0;
  // What is enqueued on `after` from now on waits for what is on `before` so far.
  virtual Status Order(Stream before, Stream after) = 0;
  // Returns when what is on the stream so far is done, and whether all of it could be.
  virtual Status Wait(Stream stream) = 0;
};

// Device memory of so many bytes; whatever is taken and not given back ends with it.
std::shared_ptr<Space> EmulatedSpace(size_t bytes = size_t{1} << 40);

// The GPU of this number, one for all who hold it. Fails with kUnavailable and says what to do, if
// there is no such GPU, no driver, or no CUDA in this build.
Result<std::shared_ptr<Space>> CudaSpace(int index);

// The version of CUDA that this build is made with, such as "13.0"; empty without.
std::string CudaVersion();

}  // namespace recis
