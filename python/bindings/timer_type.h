// iocp_bind.TimerHandle, and Python functions as callbacks of the engine.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

namespace iocp::python {

// The arguments of call_soon, call_later or call_every. GIL, as for all here.
struct CallArguments {
  Duration time{};  // the delay or the interval
  Callback callback;
};

// Checks the arguments `given` (count of them), which are (delay, fn, *args), (interval, fn, *args)
// or (fn, *args). False with an error set that says what is needed.
bool ParseCall(CallKind kind, PyObject* const* given, Py_ssize_t count, CallArguments* parsed);

// A new reference, or null with an error set; the timer is cancelled then.
PyObject* WrapTimer(TimerHandle timer);

// "call_soon", "call_later", "call_every".
const char* NameOf(CallKind kind);

void RegisterTimer(pybind11::module_& module);

}  // namespace iocp::python
