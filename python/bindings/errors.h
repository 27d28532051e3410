// Errors of the engine as Python exceptions, and the process-wide state that every call looks at.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

#include <exception>
#include <string>

namespace iocp::python {

// The exceptions of the package, made in errors.cpp. Borrowed references, alive with the module.
PyObject* BackendUnavailableType();
PyObject* SendBacklogFullType();
// Why a TLS cannot be made, for the Python layer: (sentence, errno or 0).
PyObject* TlsFaultType();
PyObject* TlsErrorType();

// A Python error is set, and this travels to where it is reported.
class PythonErrorSet : public std::exception {
 public:
  [[nodiscard]] const char* what() const noexcept override { return "a Python error is set"; }
};

// Sets the exception that `status` stands for and throws pybind11::error_already_set.
[[noreturn]] void RaiseStatus(const Status& status);

// OSError, of the subclass that belongs to the code. A new reference, or null with an error set.
PyObject* MakeOSError(const Error& error);

// iocp_bind.FrameError. A new reference, or null with an error set.
PyObject* MakeFrameError(const FrameFault& fault);

// iocp_bind.TLSError, or TLSTruncated. A new reference, or null with an error set.
PyObject* MakeTlsError(bool truncated, const std::string& fault);

// True exactly when a running server was inherited through fork: its threads are not in this
// process, and nothing of it can be used here.
bool InForkedChild();
// Sets RuntimeError and answers true in such a child.
bool RefuseInForkedChild();

// Servers that run, so that a fork knows whether it inherits one.
void CountRunningServers(int change);

void RegisterErrors(pybind11::module_& module);

}  // namespace iocp::python
