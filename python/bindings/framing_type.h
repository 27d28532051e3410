// The native part of a framing: iocp_bind.LengthPrefix and the others hold one.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

namespace iocp::python {

// The framing inside `value`; null for None. Throws pybind11::type_error for anything else, with a
// sentence about the option or attribute called `name`. GIL.
FramingPtr FramingOf(const char* name, pybind11::handle value);

void RegisterFramings(pybind11::module_& module);

}  // namespace iocp::python
