// The module recis._engine.
#include <lmdb.h>
#include <xxhash.h>

#include <string>

#include "base/interrupt.h"
#include "bind/bind.h"
#include "device/kernels.h"
#include "device/space.h"

namespace recis::bind {
namespace {

PyObject* ExceptionOf(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return PyExc_ValueError;
    case Code::kOutOfRange:
      return PyExc_IndexError;
    case Code::kNotFound:
      return PyExc_KeyError;
    case Code::kOutOfMemory:
      return PyExc_MemoryError;
    case Code::kFull:
      return PyExc_OverflowError;
    case Code::kIo:
      return PyExc_OSError;
    case Code::kCorrupt:
    case Code::kUnavailable:
      return PyExc_RuntimeError;
    case Code::kOk:
      break;
  }
  return PyExc_SystemError;
}

// Handles signals; only Python's main thread has any.
bool SignalRaised() {
  const py::gil_scoped_acquire locked;
  return PyErr_CheckSignals() != 0;
}

// What this build is made of, for bug reports.
py::dict BuildInfo() {
  py::dict info;
  info["version"] = RECIS_VERSION;
  info["compiler"] = __VERSION__;
  info["kernels"] = ActiveKernels().name;
  info["cuda"] = CudaVersion();
  info["lmdb"] = mdb_version(nullptr, nullptr, nullptr);
  const unsigned xxhash = XXH_versionNumber();
  info["xxhash"] = std::to_string(xxhash / 10000) + "." + std::to_string(xxhash / 100 % 100) + "." +
                   std::to_string(xxhash % 100);
  return info;
}

}  // namespace

PYBIND11_MODULE(_engine, module) {
  module.doc() = "The recis engine. Use the recis package, which checks what it passes here.";
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Interrupted&) {
      // What the signal's handler raised is set already.
    } catch (const StatusError& error) {
      const Status& status = error.status;
      if (status.code() == Code::kIo) {
        // With its number Python picks the subclass, PermissionError say.
        const py::tuple arguments = py::make_tuple(status.error_number(), status.message());
        PyErr_SetObject(PyExc_OSError, arguments.ptr());
      } else {
        PyErr_SetString(ExceptionOf(status.code()), status.message().c_str());
      }
    }
  });
  interrupt_check = &SignalRaised;
  InitMemory(module);
  InitPolicies(module);
  InitPooling(module);
  InitStore(module);
  InitSettings(module);
  InitBatch(module);
  InitTable(module);
  InitDeviceTable(module);
  InitCachedTable(module);
  InitSnapshot(module);
  module.def("build_info", &BuildInfo);
}

}  // namespace recis::bind
