// What on_read_completed gets with zero_copy=True: a memoryview of the receive buffer.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

namespace iocp::python {

// A read-only memoryview that owns `buffer`; a new reference, or null with an error set. GIL.
PyObject* MakeReceiveView(Buffer buffer);

// The hook has returned: `view` becomes useless, and the buffer goes back to its pool. What was
// made from the view and still lives, a NumPy array or a slice, keeps the buffer until it lets go.
// Takes over the reference to `view`. Keeps a Python error that is set. GIL.
void ReleaseReceiveView(PyObject* view);

void RegisterReceiveView();

}  // namespace iocp::python
