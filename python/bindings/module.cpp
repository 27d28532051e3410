// iocp_bind._core: a table of contents.
#include <pybind11/pybind11.h>

#include "connection_type.h"
#include "errors.h"
#include "receive_view.h"
#include "server.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The native part of iocp_bind; use the package, not this module.";
  iocp::python::RegisterErrors(module);
  iocp::python::RegisterConnection(module);
  iocp::python::RegisterReceiveView();
  iocp::python::RegisterServer(module);
#ifdef IOCP_BIND_VERSION
  module.attr("__version__") = IOCP_BIND_VERSION;
#endif
}
