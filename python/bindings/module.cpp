// iocp_bind._core: a table of contents.
#include <pybind11/pybind11.h>

#include "connection_type.h"
#include "errors.h"
#include "framing_type.h"
#include "receive_view.h"
#include "server.h"
#include "timer_type.h"
#include "tls_type.h"

PYBIND11_MODULE_EXEC(_core, module) {
  module.doc() = "The native part of iocp_bind; use the package, not this module.";
  iocp::python::RegisterErrors(module);
  iocp::python::RegisterFramings(module);
  iocp::python::RegisterTls(module);
  iocp::python::RegisterConnection(module);
  iocp::python::RegisterReceiveView();
  iocp::python::RegisterTimer(module);
  iocp::python::RegisterServer(module);
#ifdef IOCP_BIND_VERSION
  module.attr("__version__") = IOCP_BIND_VERSION;
#endif
}

namespace {

// Runs before pybind11 does anything: in a sub-interpreter that may wait forever for a GIL that its
// own thread holds.
int Execute(PyObject* module) {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError,
                    "iocp_bind works in the main interpreter only, and this is a sub-interpreter: "
                    "the server's threads run hooks in the interpreter the process began with");
    return -1;
  }
  return pybind11_exec__core(module);
}

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(&Execute)},
#ifdef Py_mod_multiple_interpreters
    // Without it Python refuses with a message that does not say what to do.
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_core", nullptr, 0, nullptr, slots, nullptr, nullptr, nullptr,
};

}  // namespace

// The name that Python looks for.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  PYBIND11_CHECK_PYTHON_VERSION
  return PyModuleDef_Init(&definition);
}
