// Messages as Python objects, and Connection's functions that send them.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

#include <span>

namespace iocp::python {

// A message of on_message: bytes, or with `zero_copy` a memoryview; those of on_messages: a list. A
// new reference, or null with an error set. GIL.
PyObject* MakeMessage(Message& message, bool zero_copy);
PyObject* MakeMessages(std::span<Message> messages, bool zero_copy);

// Connection.send_message and send_messages: for `argument`, a bytes-like object or an iterable of
// them. Throws std::bad_alloc; false with an error set.
bool SendOneMessage(Connection& connection, PyObject* argument, SendResult* result);
bool SendManyMessages(Connection& connection, PyObject* argument, SendResult* result);

}  // namespace iocp::python
