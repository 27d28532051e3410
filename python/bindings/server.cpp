#include "server.h"

#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "connection_type.h"
#include "errors.h"
#include "hooked_server.h"
#include "iocp.h"
#include "options.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

void RefuseAfterFork() {
  if (RefuseInForkedChild()) throw py::error_already_set();
}

Duration ToDuration(double seconds, const char* name) {
  if (std::isnan(seconds) || seconds < 0) {
    throw py::value_error(std::string(name) + " must be at least 0 seconds");
  }
  constexpr double kYear = 365.0 * 24 * 3600;
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(seconds, kYear)));
}

HookTable::Target TakeApart(const py::object& callable) {
  if (callable.is_none()) return {};
  if (PyMethod_Check(callable.ptr())) {
    return {py::reinterpret_borrow<py::object>(PyMethod_GET_FUNCTION(callable.ptr())),
            py::reinterpret_borrow<py::object>(PyMethod_GET_SELF(callable.ptr()))};
  }
  return {callable, py::object()};
}

// The part of a server that is C++: holds the engine's server, so that it can be left behind in a
// forked child, where its threads do not exist and nothing of it may be touched.
class PyServer {
 public:
  PyServer() : server_(std::make_unique<HookedServer>()) { RefuseAfterFork(); }
  PyServer(const PyServer&) = delete;
  PyServer& operator=(const PyServer&) = delete;
  // Without the GIL: hooks that run need it to end.
  ~PyServer() {
    if (InForkedChild()) {
      static_cast<void>(server_.release());
    } else {
      server_->Shutdown(Duration::zero());
    }
  }

  void Start(const py::dict& options, const py::dict& hooks, const py::tuple& reasons,
             bool zero_copy) {
    RefuseAfterFork();
    const Options parsed = OptionsFromDict(options);
    std::unique_ptr<HookTable> table = MakeTable(hooks, reasons, zero_copy);
    if (server_->running() || std::exchange(starting_, true)) {
      RaiseStatus({Status::Problem::kAlreadyRunning,
                   {},
                   "the server is running already; call shutdown() first"});
    }
    {
      // The run before may have been ended by a hook: its last worker must have let go of the
      // hooks.
      const py::gil_scoped_release release;
      server_->Shutdown(Duration::zero());
    }
    server_->SetHooks(std::move(table));
    CountRunningServers(1);
    Status status;
    {
      const py::gil_scoped_release release;
      status = server_->Start(parsed);
    }
    starting_ = false;
    if (status.ok()) return;
    CountRunningServers(-1);
    server_->ClearHooks();
    RaiseStatus(status);
  }

  void Shutdown(double timeout) {
    RefuseAfterFork();
    const Duration duration = ToDuration(timeout, "timeout");
    const py::gil_scoped_release release;
    server_->Shutdown(duration);
  }

  void CloseConnection(const py::object& connection) {
    RefuseAfterFork();
    Connection* inner = UnwrapConnection(connection.ptr());
    if (inner == nullptr) throw py::error_already_set();
    inner->Close();
  }

  void CloseAllConnections() {
    RefuseAfterFork();
    const py::gil_scoped_release release;
    server_->CloseAllConnections();
  }

  std::size_t Broadcast(const py::buffer& data, const py::object& exclude) {
    RefuseAfterFork();
    Connection* excluded = nullptr;
    if (!exclude.is_none()) {
      excluded = UnwrapConnection(exclude.ptr());
      if (excluded == nullptr) throw py::error_already_set();
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
    std::size_t accepted = 0;
    {
      const py::gil_scoped_release release;
      accepted = server_->Broadcast(view.buf, static_cast<std::size_t>(view.len), excluded);
    }
    PyBuffer_Release(&view);
    return accepted;
  }

  py::list Connections() {
    RefuseAfterFork();
    py::list list;
    for (const ConnectionPtr& connection : server_->connections()) {
      py::object wrapped = py::reinterpret_steal<py::object>(WrapConnection(*connection, false));
      if (!wrapped) throw py::error_already_set();
      list.append(std::move(wrapped));
    }
    return list;
  }

  py::object Address() {
    RefuseAfterFork();
    const iocp::Address address = server_->address();
    if (address.family == iocp::Address::Family::kNone) return py::none();
    return py::make_tuple(address.Host(), address.port);
  }

  std::string Backend() {
    RefuseAfterFork();
    return server_->backend();
  }
  // Raises what every other call raises after a fork.
  void CheckUsable() { RefuseAfterFork(); }
  bool Running() { return !InForkedChild() && server_->running(); }
  std::size_t ConnectionCount() {
    RefuseAfterFork();
    return server_->connection_count();
  }

  py::dict StatsDict() {
    RefuseAfterFork();
    const Stats stats = server_->stats();
    py::dict dict;
    dict["accepted"] = stats.accepted;
    dict["refused"] = stats.refused;
    dict["accept_errors"] = stats.accept_errors;
    dict["established"] = stats.established;
    py::list closed;
    for (const std::uint64_t count : stats.closed) closed.append(count);
    dict["closed"] = closed;
    dict["connections"] = stats.connections;
    dict["reads"] = stats.reads;
    dict["writes"] = stats.writes;
    dict["bytes_received"] = stats.bytes_received;
    dict["bytes_sent"] = stats.bytes_sent;
    dict["hook_calls"] = stats.hook_calls;
    dict["hook_errors"] = stats.hook_errors;
    dict["hook_batches"] = stats.hook_batches;
    dict["gil_wait_seconds"] = stats.gil_wait_seconds;
    dict["hook_seconds"] = stats.hook_seconds;
    dict["buffers_in_use"] = stats.buffers_in_use;
    dict["free_buffers"] = stats.free_buffers;
    dict["free_contexts"] = stats.free_contexts;
    dict["pending_accepts"] = stats.pending_accepts;
    return dict;
  }

 private:
  static std::unique_ptr<HookTable> MakeTable(const py::dict& hooks, const py::tuple& reasons,
                                              bool zero_copy) {
    auto table = std::make_unique<HookTable>();
    table->established = TakeApart(hooks["on_connection_established"]);
    table->read = TakeApart(hooks["on_read_completed"]);
    table->write = TakeApart(hooks["on_write_completed"]);
    table->error = TakeApart(hooks["on_connection_error"]);
    table->closing = TakeApart(hooks["on_connection_closing"]);
    table->hook_error = hooks["on_hook_error"];
    table->warn = hooks["warn"];
    table->stopped = hooks["stopped"];
    for (std::size_t i = 0; i < kCloseReasons; ++i) table->reasons[i] = py::object(reasons[i]);
    table->zero_copy = zero_copy;
    return table;
  }

  std::unique_ptr<HookedServer> server_;
  bool starting_ = false;  // true exactly while a thread is in Start past its checks; under the GIL
};

}  // namespace

void RegisterServer(py::module_& module) {
  py::class_<PyServer, py::smart_holder>(module, "Server",
                                         py::release_gil_before_calling_cpp_dtor())
      .def(py::init<>())
      .def("_start", &PyServer::Start)
      .def("_shutdown", &PyServer::Shutdown)
      .def("_close_connection", &PyServer::CloseConnection)
      .def("_close_all_connections", &PyServer::CloseAllConnections)
      .def("_broadcast", &PyServer::Broadcast)
      .def("_connections", &PyServer::Connections)
      .def("_address", &PyServer::Address)
      .def("_backend", &PyServer::Backend)
      .def("_check_usable", &PyServer::CheckUsable)
      .def("_running", &PyServer::Running)
      .def("_connection_count", &PyServer::ConnectionCount)
      .def("_stats", &PyServer::StatsDict);
  module.def("_backends", [] {
    py::list list;
    for (const BackendInfo& info : Backends()) {
      list.append(py::make_tuple(info.name, info.available, info.reason));
    }
    return list;
  });
}

}  // namespace iocp::python
