// The native part of an iocp_bind.TLS, and the result of a handshake.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

#include <optional>

namespace iocp::python {

// The Tls inside `value`; none for None. Throws pybind11::type_error for anything else, with a
// sentence about the option or attribute called `name`. GIL.
Tls TlsOf(const char* name, pybind11::handle value);

// The same for a server's side alone: throws pybind11::value_error for a client's.
Tls ServerTlsOf(const char* name, pybind11::handle value);

// iocp_bind.TLSInfo, or None. A new reference, or null with an error set.
PyObject* MakeTlsInfo(const std::optional<TlsInfo>& info);

void RegisterTls(pybind11::module_& module);

}  // namespace iocp::python
