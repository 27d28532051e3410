#include "python_handler.h"

#include <new>
#include <string>
#include <utility>
#include <vector>

#include "connection_type.h"
#include "errors.h"
#include "gil.h"
#include "messages.h"
#include "receive_view.h"
#include "timer_type.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

// This thread's state while it is a worker.
thread_local PyThreadState* thread_state = nullptr;

// The memory of a bytes object that nobody has seen yet, for a block to receive into.
void DropUnseenBytes(void* bytes) {
  // Any thread: a block goes with its pool, or when there are more than the pool keeps.
  const WithGil held;
  Py_DECREF(static_cast<PyObject*>(bytes));
}

// The received bytes as a bytes object: a new reference, or null with an error set. Much data is
// not copied: its block has received into a bytes object, which leaves the block for a fresh one.
PyObject* TakeBytes(Buffer& buffer) {
  const std::size_t size = buffer.size();
  const std::size_t capacity = buffer.exchangeable();
  // Less than half would leave a hole in the heap for the rest, or keep it.
  if (capacity / 2 >= size || capacity == 0) {
    return PyBytes_FromStringAndSize(buffer.data(), static_cast<Py_ssize_t>(size));
  }
  PyObject* fresh = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(capacity));
  if (fresh == nullptr) return nullptr;
  const BlockMemory received = buffer.Exchange({PyBytes_AS_STRING(fresh), fresh, &DropUnseenBytes});
  PyObject* bytes = nullptr;
  if (received.release == &DropUnseenBytes) {
    bytes = static_cast<PyObject*>(received.owner);
    if (size < capacity) _PyBytes_Resize(&bytes, static_cast<Py_ssize_t>(size));
  } else {
    bytes = PyBytes_FromStringAndSize(received.data, static_cast<Py_ssize_t>(size));
    received.release(received.owner);
  }
  return bytes;
}

const char* HookName(Hook hook) {
  switch (hook) {
    case kHookEstablished:
      return "on_connection_established";
    case kHookRead:
      return "on_read_completed";
    case kHookMessage:
      return "on_message";
    case kHookMessages:
      return "on_messages";
    case kHookWrite:
      return "on_write_completed";
    case kHookWritable:
      return "on_writable";
    case kHookEndOfStream:
      return "on_end_of_stream";
    case kHookError:
      return "on_connection_error";
    case kHookClosing:
      return "on_connection_closing";
    case kHookHandshakeFailed:  // nothing leaves it
    case kHookAll:
      break;
  }
  return "";
}

// The Python error that is set, as an object with its traceback; clears it.
py::object TakeError() {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr && value != nullptr) PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return py::reinterpret_steal<py::object>(value);
}

// The exception for on_connection_error: a new reference, or null with an error set.
PyObject* MakeError(Connection& connection, const Error& error) {
  switch (error.kind) {
    case ErrorKind::kBadFrame:
      return MakeFrameError(connection.frame_fault());
    case ErrorKind::kTls:
    case ErrorKind::kTruncated:
      return MakeTlsError(error.kind == ErrorKind::kTruncated, connection.tls_fault());
    default:
      return MakeOSError(error);
  }
}

}  // namespace

unsigned PythonHandler::WantedHooks() const {
  unsigned wanted = 0;
  if (hooks_->established) wanted |= kHookEstablished;
  if (hooks_->read) wanted |= kHookRead;
  if (hooks_->message) wanted |= kHookMessage;
  if (hooks_->messages) wanted |= kHookMessages;
  if (hooks_->write) wanted |= kHookWrite;
  if (hooks_->writable) wanted |= kHookWritable;
  if (hooks_->end_of_stream) wanted |= kHookEndOfStream;
  if (hooks_->error) wanted |= kHookError;
  if (hooks_->closing) wanted |= kHookClosing;
  if (hooks_->handshake_failed) wanted |= kHookHandshakeFailed;
  return wanted;
}

void PythonHandler::OnWorkerBegin() {
  // One for the worker's life: to make one for each batch would cost more than many a hook.
  thread_state = PyThreadState_New(PyInterpreterState_Main());
}

void PythonHandler::OnWorkerEnd() {
  TakeGil(thread_state);
  PyThreadState_Clear(thread_state);
  PyThreadState_DeleteCurrent();
  thread_state = nullptr;
}

void PythonHandler::OnBatchBegin() { TakeGil(thread_state); }

void PythonHandler::OnBatchEnd() { PyEval_SaveThread(); }

void PythonHandler::OnStopped() {
  const WithGil held;
  // It keeps the Python server, and so this object, until it has been called.
  const py::object stopped = hooks_->stopped;
  EndRun();
  PyObject* result = PyObject_CallNoArgs(stopped.ptr());
  if (result == nullptr) PyErr_WriteUnraisable(stopped.ptr());
  Py_XDECREF(result);
}

void PythonHandler::BeginRun(std::unique_ptr<HookTable> hooks) {
  hooks_ = std::move(hooks);
  CountRunningServers(1);
}

void PythonHandler::EndRun() {
  const std::unique_ptr<HookTable> hooks = std::move(hooks_);
  CountRunningServers(-1);
}

void PythonHandler::Call(const HookTable::Target& target, Connection& connection,
                         PyObject* argument, bool has_argument) {
  const py::object wrapped =
      py::reinterpret_steal<py::object>(WrapConnection(connection, true, hooks_.get()));
  const py::object owned = py::reinterpret_steal<py::object>(argument);
  if (!wrapped || (has_argument && !owned)) throw PythonErrorSet{};
  // The first place is for the callee to use, as PY_VECTORCALL_ARGUMENTS_OFFSET promises.
  PyObject* arguments[4] = {nullptr, target.self.ptr(), wrapped.ptr(), owned.ptr()};
  PyObject** first = target.self ? &arguments[1] : &arguments[2];
  const std::size_t count = (target.self ? 2U : 1U) + (has_argument ? 1U : 0U);
  PyObject* result = PyObject_Vectorcall(target.function.ptr(), first,
                                         count | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
  if (result == nullptr) throw PythonErrorSet{};
  Py_DECREF(result);
}

void PythonHandler::OnConnectionEstablished(Connection& connection) {
  Call(hooks_->established, connection, nullptr, false);
}

namespace {

// The views that a hook gets, which are good until it has returned.
class HookViews {
 public:
  // Owned references. Null, and what is no view, is left out.
  explicit HookViews(PyObject* made) {
    if (made != nullptr && PyMemoryView_Check(made)) {
      Keep(made);
    } else if (made != nullptr && PyList_Check(made)) {
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(made); ++i) Keep(PyList_GET_ITEM(made, i));
    }
  }
  HookViews(const HookViews&) = delete;
  HookViews& operator=(const HookViews&) = delete;
  ~HookViews() {
    for (PyObject* view : views_) ReleaseReceiveView(view);
  }

 private:
  void Keep(PyObject* view) {
    Py_INCREF(view);
    views_.push_back(view);
  }

  std::vector<PyObject*> views_;
};

}  // namespace

// Calls a hook that gets received bytes: `made`, which it steals.
void PythonHandler::CallWithBytes(const HookTable::Target& target, Connection& connection,
                                  PyObject* made) {
  if (!hooks_->zero_copy) {
    Call(target, connection, made, true);
    return;
  }
  const HookViews views(made);
  Call(target, connection, made, true);
}

void PythonHandler::OnReadCompleted(Connection& connection, Buffer& buffer) {
  CallWithBytes(hooks_->read, connection,
                hooks_->zero_copy ? MakeReceiveView(std::move(buffer)) : TakeBytes(buffer));
}

void PythonHandler::OnMessage(Connection& connection, Message& message) {
  CallWithBytes(hooks_->message, connection, MakeMessage(message, hooks_->zero_copy));
}

void PythonHandler::OnMessages(Connection& connection, std::span<Message> messages) {
  CallWithBytes(hooks_->messages, connection, MakeMessages(messages, hooks_->zero_copy));
}

void PythonHandler::OnWriteCompleted(Connection& connection, std::size_t bytes) {
  Call(hooks_->write, connection, PyLong_FromSize_t(bytes), true);
}

void PythonHandler::OnConnectionWritable(Connection& connection) {
  Call(hooks_->writable, connection, nullptr, false);
}

EndOfStream PythonHandler::OnEndOfStream(Connection& connection) {
  Call(hooks_->end_of_stream, connection, nullptr, false);
  return EndOfStream::kKeepOpen;
}

void PythonHandler::OnConnectionError(Connection& connection, Error error) {
  Call(hooks_->error, connection, MakeError(connection, error), true);
}

void PythonHandler::OnConnectionClosing(Connection& connection, CloseReason reason) {
  PyObject* member = hooks_->reasons[static_cast<std::size_t>(reason)].ptr();
  Py_INCREF(member);
  Call(hooks_->closing, connection, member, true);
}

// No hook of Python's: nobody is told of an exception but the interpreter.
void PythonHandler::OnHandshakeFailed(Connection& connection, TlsFailure failure,
                                      std::string_view why) {
  const Address& peer = connection.remote_address();
  PyObject* result = nullptr;
  try {
    result = PyObject_CallFunction(hooks_->handshake_failed.ptr(), "siis", peer.Host().c_str(),
                                   static_cast<int>(peer.port), static_cast<int>(failure),
                                   std::string(why).c_str());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  }
  if (result == nullptr) PyErr_WriteUnraisable(hooks_->handshake_failed.ptr());
  Py_XDECREF(result);
}

void PythonHandler::OnHookError(Connection& connection, Hook hook, const std::exception_ptr&) {
  ReportError(&connection, HookName(hook));
}

void PythonHandler::OnCallbackError(Connection* connection, CallKind kind,
                                    const std::exception_ptr&) {
  ReportError(connection, NameOf(kind));
}

void PythonHandler::ReportError(Connection* connection, const char* name) {
  const py::object exception = TakeError();
  const py::object wrapped =
      connection != nullptr
          ? py::reinterpret_steal<py::object>(WrapConnection(*connection, true, hooks_.get()))
          : py::none();
  const py::object text = py::reinterpret_steal<py::object>(PyUnicode_FromString(name));
  PyObject* result = nullptr;
  if (exception && wrapped && text) {
    result = PyObject_CallFunctionObjArgs(hooks_->hook_error.ptr(), wrapped.ptr(), text.ptr(),
                                          exception.ptr(), nullptr);
  }
  if (result == nullptr) {
    // The handler of errors failed itself: nothing is left but the interpreter's last
    // resort.
    PyErr_WriteUnraisable(hooks_->hook_error.ptr());
    if (connection != nullptr) connection->Abort(CloseReason::kHookError);
  }
  Py_XDECREF(result);
}

void PythonHandler::OnConnectionReleased(Connection& connection) { ReleaseConnection(connection); }

void PythonHandler::OnWarning(const std::string& message) {
  PyObject* result = PyObject_CallFunction(hooks_->warn.ptr(), "s", message.c_str());
  if (result == nullptr) PyErr_WriteUnraisable(hooks_->warn.ptr());
  Py_XDECREF(result);
}

}  // namespace iocp::python
