// The keyword arguments of Server.start as iocp::Options.
#pragma once

#include <pybind11/pybind11.h>

#include "iocp.h"

namespace iocp::python {

// Every key must be an option. Raises TypeError for a wrong type, ValueError for a number that no
// option can hold; ranges are checked by Server::Start.
Options OptionsFromDict(const pybind11::dict& values);

}  // namespace iocp::python
