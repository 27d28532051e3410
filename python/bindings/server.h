// iocp_bind._core.Core, the native core of a Python server, and what belongs to it.
#pragma once

#include <pybind11/pybind11.h>

namespace iocp::python {

void RegisterServer(pybind11::module_& module);

}  // namespace iocp::python
