// iocp_bind.Connection. Written against the C API of Python, not with pybind11: it is on the path
// of every message, and there is one for each of thousands of clients.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

namespace iocp::python {

struct HookTable;

// Below this many bytes a copy is cheaper than to keep the bytes object until the send is out.
inline constexpr Py_ssize_t kShareFrom = 16 * 1024;

// The one Python object of `connection`: a new reference, or null with an error set. `in_hook` says
// that a hook of this connection is running. `hooks` are those of the run, null: it is over. The
// object and the connection hold each other until ReleaseConnection; after that the object is a
// dead handle that a user may keep. GIL.
PyObject* WrapConnection(Connection& connection, bool in_hook, const HookTable* hooks);

// After the connection's last hook: it lets go of its Python object. GIL.
void ReleaseConnection(Connection& connection);

// The connection inside a Connection object; null for any other object.
Connection* UnwrapConnection(PyObject* object);

// Adds the type to the module.
void RegisterConnection(pybind11::module_& module);

}  // namespace iocp::python
