// iocp_bind._core.Server and what belongs to it.
#pragma once

#include <pybind11/pybind11.h>

namespace iocp::python {

void RegisterServer(pybind11::module_& module);

}  // namespace iocp::python
