#include "timer_type.h"

#include <cmath>
#include <new>
#include <utility>

#include "errors.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

struct TimerObject {
  // PyObject_HEAD, spelt out; the macro has no semicolon of its own.
  PyObject ob_base;
  TimerHandle timer;
};

PyTypeObject* timer_type = nullptr;

TimerHandle& Of(PyObject* self) { return reinterpret_cast<TimerObject*>(self)->timer; }

// A function and its arguments. Made, called and destroyed under the GIL: a callback is destroyed
// inside a batch, or by the thread that cancels it.
class PythonCall {
 public:
  // `arguments`: a tuple, whose reference this takes over.
  PythonCall(PyObject* function, PyObject* arguments) : function_(function), arguments_(arguments) {
    Py_INCREF(function_);
  }
  PythonCall(const PythonCall& other) : function_(other.function_), arguments_(other.arguments_) {
    Py_INCREF(function_);
    Py_INCREF(arguments_);
  }
  PythonCall(PythonCall&& other) noexcept
      : function_(std::exchange(other.function_, nullptr)),
        arguments_(std::exchange(other.arguments_, nullptr)) {}
  PythonCall& operator=(const PythonCall&) = delete;
  PythonCall& operator=(PythonCall&&) = delete;
  ~PythonCall() {
    Py_XDECREF(arguments_);
    Py_XDECREF(function_);
  }

  void operator()() const {
    PyObject* result = PyObject_CallObject(function_, arguments_);
    if (result == nullptr) throw PythonErrorSet{};
    Py_DECREF(result);
  }

 private:
  PyObject* function_;
  PyObject* arguments_;
};

// Nobody would await what such a function returns. A cheap look, for the mistake that is made.
bool IsAsync(PyObject* function) {
  if (PyMethod_Check(function)) function = PyMethod_GET_FUNCTION(function);
  if (!PyFunction_Check(function)) return false;
  constexpr int kAsync = CO_COROUTINE | CO_ASYNC_GENERATOR | CO_GENERATOR;
  return (reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function))->co_flags & kAsync) != 0;
}

bool IsCallback(const char* name, PyObject* function) {
  if (!PyCallable_Check(function)) {
    PyErr_Format(PyExc_TypeError, "%s() needs a function to call, not %R", name, function);
    return false;
  }
  if (IsAsync(function)) {
    PyErr_Format(PyExc_TypeError,
                 "%s() needs a plain function: callbacks run on native threads, and nothing would "
                 "await or run what %R returns",
                 name, function);
    return false;
  }
  return true;
}

// Seconds. No finite number is too large: what is beyond three hundred years is never.
bool ParseTime(CallKind kind, PyObject* value, Duration* time) {
  const char* const what = kind == CallKind::kEvery ? "interval" : "delay";
  if (PyBool_Check(value) || (!PyFloat_Check(value) && !PyIndex_Check(value))) {
    PyErr_Format(PyExc_TypeError, "%s() needs a number of seconds as its %s, not %R", NameOf(kind),
                 what, value);
    return false;
  }
  const double seconds = PyFloat_AsDouble(value);
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "the %s of %s() is out of range", what, NameOf(kind));
    return false;
  }
  if (std::isnan(seconds) || (kind == CallKind::kEvery && seconds <= 0)) {
    PyErr_Format(PyExc_ValueError, "the %s of %s() must be %s, not %R", what, NameOf(kind),
                 kind == CallKind::kEvery ? "above 0 seconds" : "a number of seconds", value);
    return false;
  }
  constexpr double kMost = 9.0e9;  // what nanoseconds in 64 bits can hold
  if (seconds > kMost) {
    *time = Duration::max();
  } else if (seconds > 0) {
    // Upwards, so that a timer is never early.
    *time = Duration(static_cast<Duration::rep>(std::ceil(seconds * 1e9)));
  } else {
    *time = Duration::zero();
  }
  return true;
}

PyObject* Cancel(PyObject* self, PyObject*) {
  if (RefuseInForkedChild()) return nullptr;
  Of(self).Cancel();
  Py_RETURN_NONE;
}

PyObject* Cancelled(PyObject* self, PyObject*) { return PyBool_FromLong(Of(self).cancelled()); }

PyObject* Represent(PyObject* self) {
  return PyUnicode_FromFormat("<iocp_bind.TimerHandle at %p%s>", static_cast<void*>(self),
                              Of(self).cancelled() ? ", cancelled" : "");
}

void Deallocate(PyObject* self) {
  Of(self).~TimerHandle();
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"cancel", &Cancel, METH_NOARGS,
     "cancel($self, /)\n--\n\n"
     "Take the callback back. Any thread may call it, any number of times.\n\n"
     "Once it has returned the callback does not begin any more, and it and its arguments have\n"
     "been let go. On another thread than the callback's, the callback may be running at this\n"
     "moment. A callback of call_every may cancel itself."},
    {"cancelled", &Cancelled, METH_NOARGS,
     "cancelled($self, /)\n--\n\n"
     "Whether it was cancelled, or its connection or its server ended, before it ran. For\n"
     "call_every: whether it will not run any more."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

const char* NameOf(CallKind kind) {
  switch (kind) {
    case CallKind::kSoon:
      return "call_soon";
    case CallKind::kLater:
      return "call_later";
    case CallKind::kEvery:
      break;
  }
  return "call_every";
}

bool ParseCall(CallKind kind, PyObject* const* given, Py_ssize_t count, CallArguments* parsed) {
  const Py_ssize_t first = kind == CallKind::kSoon ? 0 : 1;
  if (count <= first) {
    const char* const wanted = kind == CallKind::kSoon    ? "(fn, *args)"
                               : kind == CallKind::kLater ? "(delay, fn, *args)"
                                                          : "(interval, fn, *args)";
    PyErr_Format(PyExc_TypeError, "%s() is called as %s%s", NameOf(kind), NameOf(kind), wanted);
    return false;
  }
  if (first == 1 && !ParseTime(kind, given[0], &parsed->time)) return false;
  if (!IsCallback(NameOf(kind), given[first])) return false;
  PyObject* arguments = PyTuple_New(count - first - 1);
  if (arguments == nullptr) return false;
  for (Py_ssize_t i = first + 1; i < count; ++i) {
    Py_INCREF(given[i]);
    PyTuple_SET_ITEM(arguments, i - first - 1, given[i]);
  }
  try {
    parsed->callback = PythonCall(given[first], arguments);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
    return false;
  }
  return true;
}

PyObject* WrapTimer(TimerHandle timer) {
  auto* object = PyObject_New(TimerObject, timer_type);
  if (object == nullptr) {
    timer.Cancel();
    return nullptr;
  }
  new (&object->timer) TimerHandle(std::move(timer));
  return reinterpret_cast<PyObject*>(object);
}

void RegisterTimer(py::module_& module) {
  PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(&Deallocate)},
      {Py_tp_doc, const_cast<char*>(
                      "A callback that call_soon(), call_later() or call_every() has scheduled.\n\n"
                      "It may be kept and used from any thread, also after its connection or its\n"
                      "server has ended. One that is dropped cancels nothing.")},
      {Py_tp_repr, reinterpret_cast<void*>(&Represent)},
      {Py_tp_methods, methods},
      {0, nullptr},
  };
  PyType_Spec spec = {"iocp_bind.TimerHandle", sizeof(TimerObject), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw py::error_already_set();
  timer_type = reinterpret_cast<PyTypeObject*>(type);
  module.attr("TimerHandle") = py::handle(type);
}

}  // namespace iocp::python
