// What the files of bind/ share. Only this room knows Python.
//
// Tensors come as the address of their first element, a count and, where it is not fixed,
// a dtype; recis/ has checked that they are contiguous and where the engine expects them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/status.h"
#include "device/device_memory.h"

namespace recis::bind {

namespace py = pybind11;

// Engine calls run without the interpreter's lock.
using Unlocked = py::call_guard<py::gil_scoped_release>;

// Carries a Status to Python; module.cc turns it into the exception of its code.
struct StatusError {
  Status status;
};

inline void ThrowIfError(Status status) {
  if (!status.ok()) throw StatusError{std::move(status)};
}
template <class T>
T ValueOrThrow(Result<T> result) {
  if (!result.ok()) throw StatusError{result.status()};
  return std::move(result.value());
}

template <class T>
inline constexpr bool kIsResult = false;
template <class T>
inline constexpr bool kIsResult<Result<T>> = true;

// What a call gives; throws if it gives an error.
template <class Call>
auto Told(Call call) {
  using Given = decltype(call());
  if constexpr (std::is_same_v<Given, Status>) {
    ThrowIfError(call());
  } else if constexpr (kIsResult<Given>) {
    return ValueOrThrow(call());
  } else {
    return call();
  }
}

// gpu: its number; none: the emulated device.
inline std::shared_ptr<Device> DeviceOf(std::optional<int> gpu) {
  return gpu ? ValueOrThrow(CudaDevice(*gpu)) : EmulatedDevice();
}

template <class T>
T* Address(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void InitBatch(py::module_& module);
void InitCachedTable(py::module_& module);
void InitDeviceTable(py::module_& module);
void InitMemory(py::module_& module);
void InitPolicies(py::module_& module);
void InitPooling(py::module_& module);
void InitSettings(py::module_& module);
void InitSnapshot(py::module_& module);
void InitStore(py::module_& module);
void InitTable(py::module_& module);

}  // namespace recis::bind
