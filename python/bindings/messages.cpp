#include "messages.h"

#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bytes_view.h"
#include "connection_type.h"
#include "receive_view.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

PyObject* MakeBytes(const Message& message) {
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(message.size()));
  if (bytes != nullptr) message.CopyTo(PyBytes_AS_STRING(bytes));
  return bytes;
}

// Bytes-like objects as messages to send. Keeps them where they are for as long as this lives.
class Messages {
 public:
  Messages() = default;
  Messages(const Messages&) = delete;
  Messages& operator=(const Messages&) = delete;
  // A message that was not sent stays its owner's.
  ~Messages() {
    for (const SharedBytes& message : messages_) {
      if (!sent_ && message.release != nullptr) message.release(message.owner);
    }
  }

  bool Add(PyObject* item, const char* function) {
    if (PyBytes_CheckExact(item)) {
      const Py_ssize_t size = PyBytes_GET_SIZE(item);
      SharedBytes& message = messages_.emplace_back();
      message = {PyBytes_AS_STRING(item), static_cast<std::size_t>(size)};
      if (size >= kShareFrom) {
        Py_INCREF(item);
        message.owner = item;
        message.release = [](void* owner) { Py_DECREF(static_cast<PyObject*>(owner)); };
      }
      return true;
    }
    views_.emplace_back();
    if (!views_.back().Open(item, function)) return false;
    const std::string_view bytes = views_.back().bytes();
    messages_.push_back({bytes.data(), bytes.size()});
    return true;
  }

  bool SendTo(Connection& connection, SendResult* result) try {
    *result = connection.SendMessages(messages_);
    sent_ = *result == SendResult::kAccepted;
    return true;
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return false;
  } catch (const std::logic_error&) {
    PyErr_SetString(
        PyExc_RuntimeError,
        "the connection has no framing: set conn.framing, or start the server with one");
    return false;
  }

  void Reserve(std::size_t count) { messages_.reserve(count); }

 private:
  std::vector<SharedBytes> messages_;
  std::vector<BytesView> views_;
  bool sent_ = false;  // true exactly when the connection has taken the messages over
};

}  // namespace

PyObject* MakeMessage(Message& message, bool zero_copy) try {
  return zero_copy ? MakeReceiveView(message.Share()) : MakeBytes(message);
} catch (const std::bad_alloc&) {
  return PyErr_NoMemory();
}

PyObject* MakeMessages(std::span<Message> messages, bool zero_copy) {
  PyObject* list = PyList_New(static_cast<Py_ssize_t>(messages.size()));
  if (list == nullptr) return nullptr;
  Py_ssize_t index = 0;
  for (Message& message : messages) {
    PyObject* item = MakeMessage(message, zero_copy);
    if (item == nullptr) {
      Py_DECREF(list);
      return nullptr;
    }
    PyList_SET_ITEM(list, index++, item);
  }
  return list;
}

bool SendOneMessage(Connection& connection, PyObject* argument, SendResult* result) {
  Messages messages;
  return messages.Add(argument, "send_message") && messages.SendTo(connection, result);
}

bool SendManyMessages(Connection& connection, PyObject* argument, SendResult* result) {
  // A tuple of its own: the list may change while a buffer is asked for.
  const py::object tuple = py::reinterpret_steal<py::object>(PySequence_Tuple(argument));
  if (!tuple) return false;
  Messages messages;
  const Py_ssize_t count = PyTuple_GET_SIZE(tuple.ptr());
  messages.Reserve(static_cast<std::size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!messages.Add(PyTuple_GET_ITEM(tuple.ptr(), i), "send_messages")) return false;
  }
  return messages.SendTo(connection, result);
}

}  // namespace iocp::python
