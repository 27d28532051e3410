#include "bytes_view.h"

namespace iocp::python {

bool BytesView::Open(PyObject* object, const char* function) {
  if (!PyObject_CheckBuffer(object)) {
    PyErr_Format(PyExc_TypeError, "%s() needs a bytes-like object, not '%.200s'%s", function,
                 Py_TYPE(object)->tp_name,
                 PyUnicode_Check(object) ? "; encode it first, with str.encode()" : "");
    return false;
  }
  if (PyObject_GetBuffer(object, &view_, PyBUF_SIMPLE) == 0) return true;
  view_.obj = nullptr;
  // If it can be had at all, then it only was not contiguous. Each library has its own words, and
  // even its own exception, for that; a user of ours gets one.
  PyErr_Clear();
  Py_buffer strided;
  if (PyObject_GetBuffer(object, &strided, PyBUF_FULL_RO) != 0) return false;
  PyBuffer_Release(&strided);
  PyErr_Format(PyExc_BufferError,
               "%s() needs contiguous bytes; copy the object first, with bytes()", function);
  return false;
}

}  // namespace iocp::python
