// Buffers for outputs, threads and large pages.
#include "device/memory.h"

#include "base/thread_pool.h"
#include "bind/bind.h"

namespace recis::bind {

void InitMemory(py::module_& module) {
  py::class_<Buffer>(module, "Buffer", py::buffer_protocol())
      .def(py::init([](size_t bytes) { return BufferCache::Get(bytes); }), py::arg("bytes"))
      .def_property_readonly("warm", &Buffer::warm)
      .def_buffer([](Buffer& b) {
        return py::buffer_info(b.as<uint8_t>(), static_cast<py::ssize_t>(b.bytes()));
      });
  module.def("idle_buffer_bytes", &BufferCache::IdleBytes);
  module.def("clear_idle_buffers", &BufferCache::Clear);
  module.def("set_thread_count", &SetThreadCount, py::arg("count"));
  module.def("thread_count", &ThreadCount);
  module.def("enter_background", &EnterBackground);
  module.def("set_large_pages", &SetLargePages, py::arg("on"));
}

}  // namespace recis::bind
