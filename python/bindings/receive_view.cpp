#include "receive_view.h"

#include <new>
#include <utility>

namespace py = pybind11;

namespace iocp::python {
namespace {

// Exports the bytes of one Buffer. Every Py_buffer of it holds a reference to it, so the buffer
// returns to its pool when the last of them is released: nobody ever sees recycled bytes.
struct ReceiveBufferObject {
  PyObject ob_base;
  Buffer buffer;
};

PyTypeObject* receive_buffer_type = nullptr;

int GetBuffer(PyObject* self, Py_buffer* view, int flags) {
  const Buffer& buffer = reinterpret_cast<ReceiveBufferObject*>(self)->buffer;
  constexpr int kReadOnly = 1;
  return PyBuffer_FillInfo(view, self, const_cast<char*>(buffer.data()),
                           static_cast<Py_ssize_t>(buffer.size()), kReadOnly, flags);
}

void Deallocate(PyObject* self) {
  reinterpret_cast<ReceiveBufferObject*>(self)->buffer.~Buffer();
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

}  // namespace

PyObject* MakeReceiveView(Buffer buffer) {
  auto* object = PyObject_New(ReceiveBufferObject, receive_buffer_type);
  if (object == nullptr) return nullptr;
  new (&object->buffer) Buffer(std::move(buffer));
  auto* exporter = reinterpret_cast<PyObject*>(object);
  PyObject* view = PyMemoryView_FromObject(exporter);
  Py_DECREF(exporter);
  return view;
}

void ReleaseReceiveView(PyObject* view) {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* released = PyObject_CallMethod(view, "release", nullptr);
  // Something exports the view itself: it keeps the buffer, as promised.
  if (released == nullptr) PyErr_Clear();
  Py_XDECREF(released);
  Py_DECREF(view);
  PyErr_Restore(type, value, traceback);
}

void RegisterReceiveView() {
  PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(&Deallocate)},
      {Py_bf_getbuffer, reinterpret_cast<void*>(&GetBuffer)},
      {0, nullptr},
  };
  PyType_Spec spec = {"iocp_bind._core.ReceiveBuffer", sizeof(ReceiveBufferObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  receive_buffer_type = reinterpret_cast<PyTypeObject*>(type);
}

}  // namespace iocp::python
