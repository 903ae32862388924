#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "device/cuda_status.h"
#include "device/current_gpu.h"
#include "device/space.h"

namespace recis {
namespace {

// Of memory that nobody holds: more than this goes back to the driver when a stream is waited for.
constexpr uint64_t kMaxIdleBytes = uint64_t{256} << 20;

cudaStream_t Native(Stream stream) { return static_cast<cudaStream_t>(stream); }

class Cuda : public Space {
 public:
  static Result<std::shared_ptr<Space>> Make(int index) {
    auto space = std::make_shared<Cuda>(index);
    RECIS_RETURN_IF_ERROR(space->MakePool());
    return std::shared_ptr<Space>(std::move(space));
  }

  explicit Cuda(int index) : index_(index), name_("cuda:" + std::to_string(index)) {}
  ~Cuda() override {
    if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
  }

  const std::string& name() const override { return name_; }

  Result<std::byte*> Allocate(size_t bytes, Stream stream) override {
    const CurrentGpu current(index_);
    void* memory = nullptr;
    const cudaError_t error = cudaMallocFromPoolAsync(&memory, bytes, pool_, Native(stream));
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      return OutOfMemory(name_ + ": " + std::to_string(bytes) + " bytes were asked for, " +
                         std::to_string(free) + " of " + std::to_string(total) +
                         " are free. torch.cuda.empty_cache() gives back what torch holds unused");
    }
    RECIS_RETURN_IF_ERROR(Told(error, "allocating " + std::to_string(bytes) + " bytes"));
    return static_cast<std::byte*>(memory);
  }
  void Free(std::byte* memory, Stream stream) override {
    const CurrentGpu current(index_);
    cudaFreeAsync(memory, Native(stream));
  }

  Result<std::byte*> AllocateHost(size_t bytes) override {
    const CurrentGpu current(index_);
    void* memory = nullptr;
    RECIS_RETURN_IF_ERROR(Told(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault),
                               "pinning " + std::to_string(bytes) + " bytes of host memory"));
    return static_cast<std::byte*>(memory);
  }
  void FreeHost(std::byte* memory) override { cudaFreeHost(memory); }

  Status Copy(void* to, const void* from, size_t bytes, Stream stream) override {
    if (bytes == 0) return {};  // there may be no addresses
    const CurrentGpu current(index_);
    return Told(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, Native(stream)),
                "copying " + std::to_string(bytes) + " bytes");
  }
  Status Fill(void* to, uint8_t value, size_t bytes, Stream stream) override {
    if (bytes == 0) return {};
    const CurrentGpu current(index_);
    return Told(cudaMemsetAsync(to, value, bytes, Native(stream)),
                "filling " + std::to_string(bytes) + " bytes");
  }

  Result<Stream> NewStream() override {
    const CurrentGpu current(index_);
    cudaStream_t stream = nullptr;
    RECIS_RETURN_IF_ERROR(
        Told(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream"));
    return Stream{stream};
  }
  void FreeStream(Stream stream) override { cudaStreamDestroy(Native(stream)); }

  Status Order(Stream before, Stream after) override {
    const CurrentGpu current(index_);
    cudaEvent_t event = nullptr;
    RECIS_RETURN_IF_ERROR(
        Told(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event"));
    cudaError_t error = cudaEventRecord(event, Native(before));
    if (error == cudaSuccess) error = cudaStreamWaitEvent(Native(after), event);
    cudaEventDestroy(event);  // once it has happened, says CUDA
    return Told(error, "ordering two streams");
  }
  Status Wait(Stream stream) override {
    const CurrentGpu current(index_);
    return Told(cudaStreamSynchronize(Native(stream)), "waiting for a stream");
  }

 private:
  Status MakePool() {
    const CurrentGpu current(index_);
    cudaMemPoolProps props = {};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = index_;
    RECIS_RETURN_IF_ERROR(Told(cudaMemPoolCreate(&pool_, &props), "making a pool of memory"));
    uint64_t idle = kMaxIdleBytes;
    return Told(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &idle),
                "setting up its pool of memory");
  }

  // An error that is told here must not be met again by the next call.
  Status Told(cudaError_t error, const std::string& doing) const {
    if (error == cudaSuccess) return {};
    cudaGetLastError();
    return CudaStatus(error, name_ + ": " + doing);
  }

  int index_;
  std::string name_;
  cudaMemPool_t pool_ = nullptr;
};

}  // namespace

Result<std::shared_ptr<Space>> CudaSpace(int index) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();
    int driver = 0;
    cudaDriverGetVersion(&driver);
    return NoGpu(error, driver);
  }
  if (index < 0 || index >= count) {
    return Unavailable("there is no cuda:" + std::to_string(index) + ": this process sees " +
                       std::to_string(count) +
                       " GPUs, cuda:0 to cuda:" + std::to_string(count - 1));
  }
  // One for each GPU, so that its tables share what memory the pool holds.
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Space>> spaces;
  const std::lock_guard<std::mutex> lock(mutex);
  if (std::shared_ptr<Space> space = spaces[index].lock()) return space;
  Result<std::shared_ptr<Space>> made = Cuda::Make(index);
  if (made.ok()) spaces[index] = made.value();
  return made;
}

std::string CudaVersion() { return VersionText(CUDART_VERSION); }

}  // namespace recis
