// The module recis._engine.
#include <lmdb.h>
#include <xxhash.h>

#include <string>

#include "bind/bind.h"
#include "device/kernels.h"

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
    case Code::kOk:
      break;
  }
  return PyExc_SystemError;
}

// What this build is made of, for bug reports.
py::dict BuildInfo() {
  py::dict info;
  info["version"] = RECIS_VERSION;
  info["compiler"] = __VERSION__;
  info["kernels"] = ActiveKernels().name;
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
    } catch (const StatusError& error) {
      PyErr_SetString(ExceptionOf(error.status.code()), error.status.message().c_str());
    }
  });
  InitMemory(module);
  InitPolicies(module);
  InitTable(module);
  module.def("build_info", &BuildInfo);
}

}  // namespace recis::bind
