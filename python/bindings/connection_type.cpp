#include "connection_type.h"

#include <structmember.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bytes_view.h"
#include "errors.h"
#include "framing_type.h"
#include "messages.h"
#include "options.h"
#include "python_handler.h"
#include "timer_type.h"
#include "tls_type.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

struct ConnectionObject {
  // PyObject_HEAD, spelt out; the macro has no semicolon of its own.
  PyObject ob_base;
  Connection* connection;  // one counted reference
  PyObject* data;          // the user's
  PyObject* framing;       // as it was last set, or the server's
  PyObject* tls_info;      // a TLSInfo; null until one is asked for and there is one
  PyObject* weak_references;
  // True exactly when the server has a hook for what clients send without a framing, or with one.
  bool takes_bytes;
  bool takes_messages;
};

PyTypeObject* connection_type = nullptr;

ConnectionObject* Self(PyObject* self) { return reinterpret_cast<ConnectionObject*>(self); }
Connection& Of(PyObject* self) { return *Self(self)->connection; }

PyObject* Answer(SendResult result) {
  switch (result) {
    case SendResult::kAccepted:
      Py_RETURN_TRUE;
    case SendResult::kClosed:
      Py_RETURN_FALSE;
    case SendResult::kBacklogFull:
      break;
  }
  PyErr_SetString(SendBacklogFullType(),
                  "the peer reads too slowly: the send backlog is at send_backlog_limit or "
                  "max_pending_sends. Nothing was queued; wait for on_writable or close");
  return nullptr;
}

PyObject* Send(PyObject* self, PyObject* argument) {
  if (RefuseInForkedChild()) return nullptr;
  try {
    if (PyBytes_CheckExact(argument)) {
      const char* data = PyBytes_AS_STRING(argument);
      const Py_ssize_t size = PyBytes_GET_SIZE(argument);
      if (size < kShareFrom) return Answer(Of(self).Send(data, static_cast<std::size_t>(size)));
      Py_INCREF(argument);
      const SendResult result = Of(self).Send(
          SharedBytes{data, static_cast<std::size_t>(size),
                      [](void* owner) { Py_DECREF(static_cast<PyObject*>(owner)); }, argument});
      if (result != SendResult::kAccepted) Py_DECREF(argument);
      return Answer(result);
    }
    BytesView view;
    if (!view.Open(argument, "send")) return nullptr;
    return Answer(Of(self).Send(view.bytes().data(), view.bytes().size()));
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

PyObject* WriteLines(PyObject* self, PyObject* argument) {
  if (RefuseInForkedChild()) return nullptr;
  const py::object list = py::reinterpret_steal<py::object>(
      PySequence_Fast(argument, "writelines() needs an iterable of bytes-like objects"));
  if (!list) return nullptr;
  try {
    std::vector<BytesView> views;
    std::vector<std::string_view> pieces;
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(list.ptr());
    views.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
      views.emplace_back();
      // The list may change while a buffer is asked for.
      if (i >= PySequence_Fast_GET_SIZE(list.ptr())) break;
      const auto item = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(list.ptr(), i));
      if (!views.back().Open(item.ptr(), "writelines")) return nullptr;
      pieces.push_back(views.back().bytes());
    }
    return Answer(Of(self).Send(pieces.data(), pieces.size()));
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

template <bool (*kSend)(Connection&, PyObject*, SendResult*)>
PyObject* SendFramed(PyObject* self, PyObject* argument) {
  if (RefuseInForkedChild()) return nullptr;
  try {
    SendResult result{};
    return kSend(Of(self), argument, &result) ? Answer(result) : nullptr;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

template <CallKind kKind>
PyObject* Schedule(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (RefuseInForkedChild()) return nullptr;
  CallArguments call;
  if (!ParseCall(kKind, arguments, count, &call)) return nullptr;
  try {
    switch (kKind) {
      case CallKind::kSoon:
        return WrapTimer(Of(self).CallSoon(std::move(call.callback)));
      case CallKind::kLater:
        return WrapTimer(Of(self).CallLater(call.time, std::move(call.callback)));
      case CallKind::kEvery:
        break;
    }
    return WrapTimer(Of(self).CallEvery(call.time, std::move(call.callback)));
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

// As the table of methods takes it.
template <CallKind kKind>
PyCFunction ScheduleFunction() {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Schedule<kKind>));
}

PyObject* StartTls(PyObject* self, PyObject* argument) {
  if (RefuseInForkedChild()) return nullptr;
  try {
    const Tls tls = TlsOf("tls", argument);
    if (!tls) throw py::type_error("tls must be an iocp_bind.TLS, not None");
    Of(self).StartTls(tls);
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::type_error& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const TlsError& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::logic_error& error) {
    constexpr std::string_view kInCpp = "StartTls";
    std::string text = error.what();
    if (text.starts_with(kInCpp)) text.replace(0, kInCpp.size(), "start_tls()");
    PyErr_SetString(PyExc_RuntimeError, text.c_str());
  } catch (const std::runtime_error& error) {
    PyErr_SetString(TlsErrorType(), error.what());
  }
  return nullptr;
}

PyObject* GetTls(PyObject* self, void*) {
  if (InForkedChild()) Py_RETURN_NONE;
  PyObject*& kept = Self(self)->tls_info;
  if (kept == nullptr) {
    try {
      PyObject* const info = MakeTlsInfo(Of(self).tls());
      if (info == nullptr || info == Py_None) return info;
      // Another thread may have made one meanwhile.
      PyObject* const before = std::exchange(kept, info);
      Py_XDECREF(before);
    } catch (const std::bad_alloc&) {
      return PyErr_NoMemory();
    }
  }
  Py_INCREF(kept);
  return kept;
}

template <void (Connection::*kFunction)()>
PyObject* Call(PyObject* self, PyObject*) {
  if (RefuseInForkedChild()) return nullptr;
  (Of(self).*kFunction)();
  Py_RETURN_NONE;
}

PyObject* AbortForHookError(PyObject* self, PyObject*) {
  if (RefuseInForkedChild()) return nullptr;
  Of(self).Abort(CloseReason::kHookError);
  Py_RETURN_NONE;
}

PyObject* GetId(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(Of(self).id()); }

PyObject* AddressTuple(const Address& address) {
  const std::string host = address.Host();
  return Py_BuildValue("(si)", host.c_str(), static_cast<int>(address.port));
}
PyObject* GetRemoteAddress(PyObject* self, void*) {
  return AddressTuple(Of(self).remote_address());
}
PyObject* GetLocalAddress(PyObject* self, void*) { return AddressTuple(Of(self).local_address()); }
PyObject* GetIsOpen(PyObject* self, void*) {
  return PyBool_FromLong(!InForkedChild() && Of(self).is_open());
}
PyObject* GetSendBacklog(PyObject* self, void*) {
  return PyLong_FromSize_t(Of(self).send_backlog());
}
PyObject* GetBytesReceived(PyObject* self, void*) {
  return PyLong_FromUnsignedLongLong(Of(self).bytes_received());
}
PyObject* GetBytesSent(PyObject* self, void*) {
  return PyLong_FromUnsignedLongLong(Of(self).bytes_sent());
}

// ---- The timeouts that a connection may have of its own.

struct TimeoutAttribute {
  const char* name;
  std::optional<Duration> (Connection::*get)() const;
  void (Connection::*set)(std::optional<Duration>);
  void (Connection::*inherit)();
};
TimeoutAttribute idle_timeout{"idle_timeout", &Connection::idle_timeout,
                              &Connection::SetIdleTimeout, &Connection::InheritIdleTimeout};
TimeoutAttribute receive_timeout{"receive_timeout", &Connection::receive_timeout,
                                 &Connection::SetReceiveTimeout,
                                 &Connection::InheritReceiveTimeout};

const TimeoutAttribute& TimeoutOf(void* which) { return *static_cast<TimeoutAttribute*>(which); }

PyObject* GetTimeout(PyObject* self, void* which) {
  const std::optional<Duration> timeout = std::invoke(TimeoutOf(which).get, Of(self));
  if (!timeout) Py_RETURN_NONE;
  constexpr double kPerSecond = 1e9;  // divided, so that 0.1 comes back as 0.1
  return PyFloat_FromDouble(static_cast<double>(timeout->count()) / kPerSecond);
}

// A null `value` deletes the attribute.
int SetTimeout(PyObject* self, PyObject* value, void* which) {
  const TimeoutAttribute& attribute = TimeoutOf(which);
  if (RefuseInForkedChild()) return -1;
  if (value == nullptr) {
    std::invoke(attribute.inherit, Of(self));
    return 0;
  }
  try {
    std::invoke(attribute.set, Of(self), Timeout(attribute.name, value));
    return 0;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::type_error& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return -1;
}

PyObject* GetFraming(PyObject* self, void*) {
  PyObject* framing = Self(self)->framing;
  Py_INCREF(framing);
  return framing;
}
// A null `value` deletes the attribute.
int SetFraming(PyObject* self, PyObject* value, void*) {
  if (RefuseInForkedChild()) return -1;
  if (value == nullptr) {
    PyErr_SetString(PyExc_AttributeError, "framing cannot be deleted: set it to None");
    return -1;
  }
  const bool taken = value == Py_None ? Self(self)->takes_bytes : Self(self)->takes_messages;
  try {
    FramingPtr framing = FramingOf("framing", value);
    if (!taken) {
      PyErr_SetString(PyExc_TypeError,
                      framing == nullptr
                          ? "the server does not override on_read_completed, so nobody would get "
                            "what the client sends: override it to set framing to None"
                          : "the server overrides neither on_message nor on_messages, so nobody "
                            "would get the messages: override one of them to set a framing");
      return -1;
    }
    Of(self).SetFraming(std::move(framing));
  } catch (const py::type_error& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
    return -1;
  } catch (py::error_already_set& error) {
    error.restore();
    return -1;
  }
  Py_INCREF(value);
  PyObject* before = std::exchange(Self(self)->framing, value);
  Py_DECREF(before);
  return 0;
}

PyObject* GetData(PyObject* self, void*) {
  PyObject* data = Self(self)->data;
  if (data == nullptr) Py_RETURN_NONE;
  Py_INCREF(data);
  return data;
}
int SetData(PyObject* self, PyObject* value, void*) {
  Py_XINCREF(value);
  PyObject* before = std::exchange(Self(self)->data, value);
  Py_XDECREF(before);
  return 0;
}

PyObject* Represent(PyObject* self) {
  const Connection& connection = Of(self);
  return PyUnicode_FromFormat(
      "<iocp_bind.Connection %llu from %s port %d, %s>",
      static_cast<unsigned long long>(connection.id()), connection.remote_address().Host().c_str(),
      static_cast<int>(connection.remote_address().port), connection.is_open() ? "open" : "closed");
}

int Traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Self(self)->data);
  Py_VISIT(Self(self)->framing);
  Py_VISIT(Py_TYPE(self));
  return 0;
}

int Clear(PyObject* self) {
  Py_CLEAR(Self(self)->data);
  return 0;
}

void Deallocate(PyObject* self) {
  PyObject_GC_UnTrack(self);
  if (Self(self)->weak_references != nullptr) PyObject_ClearWeakRefs(self);
  Clear(self);
  Py_DECREF(Self(self)->framing);
  Py_XDECREF(Self(self)->tls_info);
  Self(self)->connection->DropReference();
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"send", &Send, METH_O,
     "send($self, data, /)\n--\n\n"
     "Queue bytes to be sent. Never blocks; any thread may call it, in a hook or not.\n\n"
     "`data` is a contiguous bytes-like object of any length. Accepted data is written in full,\n"
     "in the order in which send() returned, or the connection is reported closed.\n"
     "on_write_completed is called when the system has taken its last byte. An empty send is\n"
     "complete as soon as everything before it is.\n\n"
     "Returns:\n    True when accepted, False when the connection is closing or closed.\n\n"
     "Raises:\n    SendBacklogFull: the backlog is at its limit; nothing was queued.\n"
     "    TypeError: `data` is not a bytes-like object.\n"
     "    BufferError: `data` is not contiguous."},
    {"writelines", &WriteLines, METH_O,
     "writelines($self, lines, /)\n--\n\n"
     "Send several bytes-like objects as one send: contiguous, with one on_write_completed.\n\n"
     "It returns and raises the same as send()."},
    {"send_message", &SendFramed<&SendOneMessage>, METH_O,
     "send_message($self, message, /)\n--\n\n"
     "Send one message with the connection's framing, which adds the header or the delimiter.\n\n"
     "`message` is a contiguous bytes-like object. Everything else is as for send(); for\n"
     "on_write_completed the frame counts as one send.\n\n"
     "Raises:\n    ValueError: the framing cannot carry this message; nothing was queued.\n"
     "    RuntimeError: the connection has no framing."},
    {"send_messages", &SendFramed<&SendManyMessages>, METH_O,
     "send_messages($self, messages, /)\n--\n\n"
     "Send several messages, all or none of them, as one send.\n\n"
     "`messages` is an iterable of contiguous bytes-like objects. It returns and raises the same\n"
     "as send_message()."},
    {"start_tls", &StartTls, METH_O,
     "start_tls($self, tls, /)\n--\n\n"
     "Begin TLS on a connection that has none, as STARTTLS does. In its hooks and callbacks only.\n"
     "\n"
     "Bytes that were sent before go out as they are; all that is sent from now on waits for the\n"
     "end of the handshake. Hooks then get the bytes that the client has sent in TLS, and `tls`\n"
     "has the result of the handshake. A handshake that fails is reported by on_connection_error;\n"
     "one that takes too long ends the connection with CloseReason.HANDSHAKE_TIMEOUT. It does\n"
     "nothing once the connection is closing or closed. After an exception nothing has changed.\n\n"
     "Args:\n"
     "    tls: an iocp_bind.TLS. With one of iocp_bind.TLS.client() the server takes the part of\n"
     "        the client in the handshake.\n\n"
     "Raises:\n    TLSError: the client has sent something behind what the hooks were given. It\n"
     "        came without TLS, perhaps from somebody else, and must not count as sent in TLS.\n"
     "        Close the connection.\n"
     "    ValueError: `tls` is a client that would verify and has no server_name.\n"
     "    RuntimeError: this is no hook or callback of the connection, or it has TLS already.\n"
     "    TypeError: `tls` is no iocp_bind.TLS."},
    {"close", &Call<&Connection::Close>, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Send what is queued, end the stream, wait for the peer at most close_timeout, close.\n\n"
     "A peer that has not acknowledged all bytes by then is reset. Data that the peer still sends\n"
     "is discarded. Any thread may call it, any number of times."},
    {"abort", &Call<&Connection::Abort>, METH_NOARGS,
     "abort($self, /)\n--\n\n"
     "Reset the connection now; queued data is dropped. Any thread may call it, any number of\n"
     "times."},
    {"pause_reading", &Call<&Connection::PauseReading>, METH_NOARGS,
     "pause_reading($self, /)\n--\n\n"
     "Stop calling on_read_completed, on_message and on_messages until resume_reading(); this\n"
     "slows the peer down.\n\n"
     "The end of the stream waits with the data before it. A connection that breaks is closed at\n"
     "once: on_connection_error and on_connection_closing are called, and data that was received\n"
     "and not delivered is dropped. Windows notices that only after resume_reading() while\n"
     "nothing is being sent; elsewhere this may happen once the peer has ended its stream. Data\n"
     "that the peer sends during the pause does not count for idle_timeout. The times of\n"
     "receive_timeout and message_timeout stand still."},
    {"resume_reading", &Call<&Connection::ResumeReading>, METH_NOARGS,
     "resume_reading($self, /)\n--\n\n"
     "Undo pause_reading(); data that came in the meantime is delivered."},
    {"call_soon", ScheduleFunction<CallKind::kSoon>(), METH_FASTCALL,
     "call_soon($self, fn, /, *args)\n--\n\n"
     "Call fn(*args) on the connection's worker, before the next hook of this connection.\n\n"
     "Callbacks never overlap the connection's hooks, nor each other. They run in the order of\n"
     "the calls, before anything that is received from now on. Any thread may call it.\n\n"
     "Callbacks end with the connection: none runs after on_connection_error or\n"
     "on_connection_closing has begun. One of call_soon() that was not cancelled always runs\n"
     "before. Once the connection has ended nothing is scheduled, and the handle is cancelled.\n"
     "An exception goes to on_hook_error, whose default aborts the connection.\n\n"
     "Returns:\n    A TimerHandle, whose cancel() takes the callback back.\n\n"
     "Raises:\n    TypeError: `fn` is no function that can be called.\n"
     "    MemoryError: memory ran out; nothing was scheduled."},
    {"call_later", ScheduleFunction<CallKind::kLater>(), METH_FASTCALL,
     "call_later($self, delay, fn, /, *args)\n--\n\n"
     "Call fn(*args) on the connection's worker when `delay` seconds have passed.\n\n"
     "Never earlier. If the worker is not busy it is about a millisecond late, and up to five\n"
     "when many timers go off. Timers of a connection run in the order of their deadlines. A\n"
     "delay of 0 or less is due at once; one that is infinite never comes. For everything else see "
     "call_soon().\n\n"
     "Returns:\n    A TimerHandle, whose cancel() takes the callback back.\n\n"
     "Raises:\n    TypeError: `delay` is no number, or `fn` no function that can be called.\n"
     "    ValueError: `delay` is not a number (NaN).\n"
     "    MemoryError: memory ran out; nothing was scheduled."},
    {"call_every", ScheduleFunction<CallKind::kEvery>(), METH_FASTCALL,
     "call_every($self, interval, fn, /, *args)\n--\n\n"
     "Call fn(*args) on the connection's worker every `interval` seconds until it is cancelled.\n\n"
     "The first time is one interval from now. Each deadline is one interval after the one\n"
     "before, so it does not drift; deadlines that a busy worker has missed are left out. It runs\n"
     "once in a millisecond at most. For everything else see call_later().\n\n"
     "Raises:\n    ValueError: `interval` is not above 0."},
    {"_abort_for_hook_error", &AbortForHookError, METH_NOARGS,
     "abort() with CloseReason.HOOK_ERROR, for Server.on_hook_error."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"id", &GetId, nullptr, "A number that no other connection of this process ever has.", nullptr},
    {"remote_address", &GetRemoteAddress, nullptr, "The client's (host, port).", nullptr},
    {"local_address", &GetLocalAddress, nullptr, "The server's (host, port) for this client.",
     nullptr},
    {"is_open", &GetIsOpen, nullptr, "False once the connection is closing or closed.", nullptr},
    {"send_backlog", &GetSendBacklog, nullptr,
     "Bytes accepted by send() that the system has not taken yet. send_backlog_limit also counts\n"
     "the memory around them, so it is reached before this number equals it.",
     nullptr},
    {"bytes_received", &GetBytesReceived, nullptr, "Bytes received from the client so far.",
     nullptr},
    {"bytes_sent", &GetBytesSent, nullptr, "Bytes that the system has taken so far.", nullptr},
    {"idle_timeout", &GetTimeout, &SetTimeout,
     "The option idle_timeout for this connection: seconds, or None when it is off.\n\n"
     "At first it is the server's, and `del conn.idle_timeout` makes it so again. Any thread may\n"
     "set it, in a hook or not. A new value holds at once and counts from the last byte, so a\n"
     "connection that has been idle for longer is closed. Once the connection is closing or\n"
     "closed, setting does nothing.\n\n"
     "Raises:\n    ValueError: it is not above 0 and at most a year.\n"
     "    TypeError: it is not a number.",
     &idle_timeout},
    {"receive_timeout", &GetTimeout, &SetTimeout,
     "The option receive_timeout for this connection: seconds, or None when it is off.\n\n"
     "It is set and deleted as idle_timeout is. The time counts from the last byte that came from\n"
     "the client; while reading is paused it stands still.",
     &receive_timeout},
    {"framing", &GetFraming, &SetFraming,
     "How what the client sends is cut into messages: a framing, or None for bytes as they "
     "come.\n\n"
     "At first it is the server's. In a hook of the connection a new one cuts what is behind the\n"
     "message, the list of messages or the bytes that the hook got. On other threads it cuts all\n"
     "that no hook has been given. With None, on_read_completed is called.\n\n"
     "Raises:\n    TypeError: it is neither a framing nor None, or the server has no hook for "
     "what\n"
     "        the client would send.",
     nullptr},
    {"tls", &GetTls, nullptr,
     "A TLSInfo, the result of the handshake. None without TLS, and before a handshake that\n"
     "start_tls() has begun is done. It stays when the connection has ended.",
     nullptr},
    {"data", &GetData, &SetData, "Yours to set: any object; None at first.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ConnectionObject, weak_references), READONLY,
     nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

}  // namespace

PyObject* WrapConnection(Connection& connection, bool in_hook, const HookTable* hooks) {
  if (connection.user_data != nullptr) {
    auto* existing = static_cast<PyObject*>(connection.user_data);
    Py_INCREF(existing);
    return existing;
  }
  const bool takes_bytes = hooks == nullptr || hooks->read;
  const bool takes_messages = hooks == nullptr || hooks->message || hooks->messages;
  py::object framing = hooks == nullptr ? py::none() : hooks->framing;
  auto* object = PyObject_GC_New(ConnectionObject, connection_type);
  if (object == nullptr) return nullptr;
  // Making an object may collect garbage, and so run Python code that asks for this very one, or
  // let another thread end the run and free its table.
  if (connection.user_data != nullptr) {
    PyObject_GC_Del(object);
    Py_DECREF(connection_type);
    return WrapConnection(connection, in_hook, nullptr);
  }
  connection.AddReference();
  object->connection = &connection;
  object->data = nullptr;
  object->tls_info = nullptr;
  object->framing = framing.release().ptr();
  object->takes_bytes = takes_bytes;
  object->takes_messages = takes_messages;
  object->weak_references = nullptr;
  auto* result = reinterpret_cast<PyObject*>(object);
  bool attached = in_hook;
  if (in_hook) {
    connection.user_data = result;
  } else {
    attached = connection.AttachUserData(result);
  }
  if (attached) Py_INCREF(result);
  PyObject_GC_Track(result);
  return result;
}

void ReleaseConnection(Connection& connection) {
  auto* object = static_cast<PyObject*>(std::exchange(connection.user_data, nullptr));
  Py_XDECREF(object);
}

Connection* UnwrapConnection(PyObject* object) {
  return Py_TYPE(object) == connection_type ? Self(object)->connection : nullptr;
}

void RegisterConnection(py::module_& module) {
  PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(&Deallocate)},
      {Py_tp_traverse, reinterpret_cast<void*>(&Traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(&Clear)},
      {Py_tp_doc, const_cast<char*>(
                      "One client. Made by the server, the same object in every hook; hashable.\n\n"
                      "It may be kept and used from any thread. After the connection is closed it\n"
                      "is a dead handle, whose send() returns False.")},
      {Py_tp_repr, reinterpret_cast<void*>(&Represent)},
      {Py_tp_methods, methods},
      {Py_tp_getset, attributes},
      {Py_tp_members, members},
      {0, nullptr},
  };
  PyType_Spec spec = {"iocp_bind.Connection", sizeof(ConnectionObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                      slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  connection_type = reinterpret_cast<PyTypeObject*>(type);
  module.attr("Connection") = py::handle(type);
}

}  // namespace iocp::python
