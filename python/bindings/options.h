// The keyword arguments of Server.start as iocp::Options.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

#include <optional>

namespace iocp::python {

// Every key must be an option. Raises TypeError for a wrong type, ValueError for a number that no
// option can hold; ranges are checked by Server::Start.
Options OptionsFromDict(const pybind11::dict& values);

// A number of seconds, which may be infinite or NaN. Raises TypeError for what is no number,
// ValueError for a number that is too large to be one.
double NumberOfSeconds(const char* name, pybind11::handle value);

// A timeout in seconds, or None. Raises as NumberOfSeconds does, and ValueError for what is not
// finite.
std::optional<Duration> Timeout(const char* name, pybind11::handle value);

}  // namespace iocp::python
