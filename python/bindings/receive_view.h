// The data of on_read_completed with zero_copy=True: a memoryview of the receive buffer.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

namespace iocp::python {

// A read-only memoryview that owns `buffer`; a new reference, or null with an error set. GIL.
PyObject* MakeReceiveView(Buffer buffer);

// Called when the hook has returned: `view` becomes useless, and the buffer goes back to its pool.
// An object that was made from the view, a NumPy array or a slice, keeps the buffer as long as it
// lives. Takes over the reference to `view`. Keeps a Python error that is set. GIL.
void ReleaseReceiveView(PyObject* view);

void RegisterReceiveView();

}  // namespace iocp::python
