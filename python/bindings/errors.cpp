#include "errors.h"

#include <atomic>
#include <cerrno>
#include <system_error>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace py = pybind11;

namespace iocp::python {
namespace {

PyObject* backend_unavailable = nullptr;
PyObject* send_backlog_full = nullptr;
PyObject* frame_error = nullptr;
PyObject* tls_fault = nullptr;
PyObject* tls_error = nullptr;
PyObject* tls_truncated = nullptr;
std::atomic<int> running_servers{0};
std::atomic<bool> forked_while_running{false};

// `attributes`: of the class; null: it has none.
PyObject* NewException(py::module_& module, const char* name, PyObject* base, const char* doc,
                       PyObject* attributes = nullptr) {
  const std::string qualified = std::string("iocp_bind.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, base, attributes);
  if (type == nullptr) throw py::error_already_set();
  module.attr(name) = py::handle(type);
  return type;  // for the life of the process
}

// A message that contains words of the system; on Windows they are in its user's language and code
// page.
// A new reference, or null with an error set.
PyObject* Text(const std::string& message) {
#ifdef _WIN32
  return PyUnicode_DecodeMBCS(message.data(), static_cast<Py_ssize_t>(message.size()), "replace");
#else
  return PyUnicode_FromString(message.c_str());
#endif
}

// A new reference, or null with an error set.
PyObject* NewOSError(int code, const std::string& message) {
#ifdef _WIN32
  // Python makes errno of winerror, and the class of it.
  return PyObject_CallFunction(PyExc_OSError, "iNOi", 0, Text(message), Py_None, code);
#else
  return PyObject_CallFunction(PyExc_OSError, "iN", code, Text(message));
#endif
}

#ifdef _WIN32
constexpr int kNoMemory = 8;  // WSA_NOT_ENOUGH_MEMORY
#else
constexpr int kNoMemory = ENOMEM;
#endif

// The system's code. When the engine itself found no memory the system has named none.
int CodeOf(const Error& error) {
  return error.kind == ErrorKind::kOutOfResources && error.code == 0 ? kNoMemory : error.code;
}

}  // namespace

PyObject* BackendUnavailableType() { return backend_unavailable; }
PyObject* SendBacklogFullType() { return send_backlog_full; }
PyObject* TlsFaultType() { return tls_fault; }
PyObject* TlsErrorType() { return tls_error; }

PyObject* MakeOSError(const Error& error) {
  const int code = CodeOf(error);
  return NewOSError(code, std::system_category().message(code));
}

PyObject* MakeFrameError(const FrameFault& fault) {
  const bool too_long = fault.kind == FrameFault::Kind::kTooLong;
  const auto number = [](const std::optional<std::uint64_t>& value) {
    return py::reinterpret_steal<py::object>(value ? PyLong_FromUnsignedLongLong(*value)
                                                   : Py_NewRef(Py_None));
  };
  const py::object announced = number(too_long ? fault.announced : std::nullopt);
  const py::object limit = number(too_long ? std::optional(fault.limit) : std::nullopt);
  py::object error = py::reinterpret_steal<py::object>(
      PyObject_CallFunction(frame_error, "s", fault.Describe().c_str()));
  if (!announced || !limit || !error ||
      PyObject_SetAttrString(error.ptr(), "announced", announced.ptr()) != 0 ||
      PyObject_SetAttrString(error.ptr(), "limit", limit.ptr()) != 0) {
    return nullptr;
  }
  return error.release().ptr();
}

PyObject* MakeTlsError(bool truncated, const std::string& fault) {
  // It has no bytes of a peer, and OpenSSL's sentences are ASCII.
  return PyObject_CallFunction(truncated ? tls_truncated : tls_error, "s", fault.c_str());
}

void RaiseStatus(const Status& status) {
  switch (status.problem) {
    case Status::Problem::kBadOption:
      PyErr_SetString(PyExc_ValueError, status.message.c_str());
      break;
    case Status::Problem::kAlreadyRunning:
      PyErr_SetString(PyExc_RuntimeError, status.message.c_str());
      break;
    case Status::Problem::kNoBackend:
      PyErr_SetString(backend_unavailable, status.message.c_str());
      break;
    case Status::Problem::kNone:
    case Status::Problem::kUnresolved:
    case Status::Problem::kSystem: {
      if (status.problem == Status::Problem::kSystem && CodeOf(status.error) == kNoMemory) {
        PyErr_SetString(PyExc_MemoryError, status.message.c_str());
        break;
      }
      // The codes of a resolver are not errno values; Python has a subclass of OSError for them.
      const py::object exception =
          status.problem == Status::Problem::kUnresolved
              ? py::module_::import("socket").attr("gaierror")(
                    status.error.code, py::reinterpret_steal<py::object>(Text(status.message)))
              : py::reinterpret_steal<py::object>(NewOSError(status.error.code, status.message));
      if (!exception) break;
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
      break;
    }
  }
  throw py::error_already_set();
}

bool InForkedChild() { return forked_while_running.load(std::memory_order_relaxed); }

bool RefuseInForkedChild() {
  if (!InForkedChild()) return false;
  PyErr_SetString(PyExc_RuntimeError,
                  "iocp_bind cannot be used here: this process was forked while a server ran, and "
                  "its threads stayed in the parent. Start the child with the 'spawn' method, or "
                  "fork before the server is started");
  return true;
}

void CountRunningServers(int change) { running_servers.fetch_add(change); }

void RegisterErrors(py::module_& module) {
  backend_unavailable =
      NewException(module, "BackendUnavailable", PyExc_RuntimeError,
                   "The requested back-end cannot run here; the message says why and what to do.");
  send_backlog_full = NewException(module, "SendBacklogFull", PyExc_RuntimeError,
                                   "The connection's backlog is at send_backlog_limit or "
                                   "max_pending_sends; nothing was queued.");
  // One that a user makes has the attributes too.
  py::dict none;
  none["announced"] = py::none();
  none["limit"] = py::none();
  frame_error = NewException(
      module, "FrameError", PyExc_ConnectionError,
      "The client sent bytes that are no message of the connection's framing.\n\n"
      "`limit` is the framing's max_size and `announced` the length of the message, if the "
      "message\n"
      "is too long; otherwise both are None. `announced` is also None if the whole length is not "
      "known.",
      none.ptr());
  tls_error =
      NewException(module, "TLSError", PyExc_ConnectionError,
                   "TLS has failed on a connection; the message says why.\n\n"
                   "`Server.on_connection_error` gets it, and `Connection.start_tls` raises it.");
  tls_truncated = NewException(
      module, "TLSTruncated", tls_error,
      "The stream of a connection with TLS ended without the end of TLS.\n\n"
      "Somebody on the way may have cut it off, so what came may not be all that was sent. It is\n"
      "an orderly end with ``TLS(allow_truncation=True)``.");
  tls_fault = NewException(module, "_TLSFault", PyExc_Exception,
                           "Why a TLS cannot be made: (sentence, errno or 0).");
#ifndef _WIN32
  ::pthread_atfork(nullptr, nullptr, [] {
    if (running_servers.load() > 0) forked_while_running.store(true);
  });
#endif
}

}  // namespace iocp::python
