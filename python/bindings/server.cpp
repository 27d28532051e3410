#include "server.h"

#include <iocp/iocp.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bytes_view.h"
#include "connection_type.h"
#include "errors.h"
#include "gil.h"
#include "options.h"
#include "python_handler.h"
#include "timer_type.h"
#include "tls_type.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

void RefuseAfterFork() {
  if (RefuseInForkedChild()) throw py::error_already_set();
}

// Infinity is a time as well.
Duration Timeout(py::handle value) {
  const double seconds = NumberOfSeconds("timeout", value);
  if (std::isnan(seconds) || seconds < 0) {
    throw py::value_error("timeout must be at least 0 seconds");
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

[[noreturn]] void NoConnection(const char* wanted, py::handle value) {
  throw py::type_error(std::string(wanted) + ", not " + Py_TYPE(value.ptr())->tp_name);
}

py::object Wrap(Connection& connection, const HookTable* hooks) {
  py::object wrapped = py::reinterpret_steal<py::object>(WrapConnection(connection, false, hooks));
  if (!wrapped) throw py::error_already_set();
  return wrapped;
}

// The connections of the iterable `to`, but for `exclude`, which may be null.
std::vector<ConnectionPtr> ConnectionsOf(const py::object& to, const Connection* exclude) {
  if (Py_TYPE(to.ptr())->tp_iter == nullptr && PySequence_Check(to.ptr()) == 0) {
    NoConnection(
        "to must be an iterable of iocp_bind.Connection objects, such as a list or a set, or None "
        "for all connections",
        to);
  }
  std::vector<ConnectionPtr> connections;
  for (const py::handle item : py::iter(to)) {
    Connection* const connection = UnwrapConnection(item.ptr());
    if (connection == nullptr) {
      NoConnection("every item of to must be an iocp_bind.Connection", item);
    }
    if (connection != exclude) connections.emplace_back(connection);
  }
  return connections;
}

// True exactly when the end of the interpreter has begun. Under the GIL.
bool starts_refused = false;
// Changed under the GIL; the end of the interpreter waits without it until there are none.
std::atomic<int> starts_under_way{0};

// The engine's part of a Python server.
struct Native {
  PythonHandler handler;
  Server server{handler};
};

// The native core of a Python server. It holds the engine's part, so that this can be left behind
// in a forked child, where its threads do not exist and nothing of it may be touched.
class Core {
 public:
  Core() : native_(std::make_unique<Native>()) { RefuseAfterFork(); }
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;
  // A server that runs is kept alive by its hooks, so here it has stopped. The last worker of its
  // last run may need the GIL to end.
  ~Core() {
    if (InForkedChild()) {
      static_cast<void>(native_.release());
      return;
    }
    const WithoutGil released;
    native_.reset();
  }

  void Start(const py::dict& options, const py::dict& hooks, const py::tuple& reasons,
             bool zero_copy) {
    RefuseAfterFork();
    const Options parsed = OptionsFromDict(options);
    std::unique_ptr<HookTable> table = MakeTable(hooks, reasons, zero_copy, options["framing"]);
    if (starting_ || native_->handler.has_hooks()) {
      RaiseStatus({Status::Problem::kAlreadyRunning,
                   {},
                   "the server is already running; call shutdown() first"});
    }
    if (starts_refused) {
      PyErr_SetString(PyExc_RuntimeError, "the interpreter is ending: no server can be started");
      throw py::error_already_set();
    }
    native_->handler.BeginRun(std::move(table));
    const py::object given = options["tls"];
    const py::object before = std::exchange(tls_, given);
    Status status;
    {
      const Starting starting(*this);
      {
        const WithoutGil released;
        status = native_->server.Start(parsed);
      }
      // Start has waited for the workers of the run before, whose last one said that it has ended.
      if (status.ok() && native_->handler.has_hooks()) hooks["begun"]();
    }
    if (status.ok()) {
      // It may have been set while the server was started with another one.
      if (!tls_.is(given)) native_->server.SetTls(ServerTlsOf("tls", tls_));
      return;
    }
    if (tls_.is(given)) tls_ = before;
    native_->handler.EndRun();
    RaiseStatus(status);
  }

  void Shutdown(const py::object& timeout) {
    RefuseAfterFork();
    const Duration duration = Timeout(timeout);
    const WithoutGil released;
    native_->server.Shutdown(duration);
  }

  // An iocp_bind.TLS, or None.
  py::object tls() {
    RefuseAfterFork();
    return tls_;
  }
  void SetTls(const py::object& value) {
    RefuseAfterFork();
    const Tls tls = ServerTlsOf("tls", value);
    if (!tls) {
      if (starting_ || Running()) {
        throw py::type_error(
            "a server that runs cannot go on without TLS: set tls to another iocp_bind.TLS");
      }
      tls_ = value;
      return;
    }
    {
      // It takes long to make what each worker needs.
      const WithoutGil released;
      native_->server.SetTls(tls);
    }
    // Quick this time. The last of several threads to come here sets both the engine's and ours.
    native_->server.SetTls(tls);
    tls_ = value;
  }

  void CloseConnection(const py::object& connection) {
    RefuseAfterFork();
    Connection* inner = UnwrapConnection(connection.ptr());
    if (inner == nullptr) NoConnection("conn must be an iocp_bind.Connection", connection);
    inner->Close();
  }

  void CloseAllConnections() {
    RefuseAfterFork();
    const WithoutGil released;
    native_->server.CloseAllConnections();
  }

  // `to`: an iterable, or None for all. Puts the connections whose backlog was full into `full`, a
  // list, unless that is None; aborts them if `abort_full`. `framed`: each connection sends it as a
  // message, with its own framing.
  std::size_t Broadcast(const py::object& data, const py::object& exclude, const py::object& to,
                        bool abort_full, const py::object& full, bool framed) {
    RefuseAfterFork();
    Connection* excluded = nullptr;
    if (!exclude.is_none()) {
      excluded = UnwrapConnection(exclude.ptr());
      if (excluded == nullptr) {
        NoConnection("exclude must be an iocp_bind.Connection or None", exclude);
      }
    }
    BytesView view;
    if (!view.Open(data.ptr(), framed ? "broadcast_message" : "broadcast")) {
      throw py::error_already_set();
    }
    std::vector<ConnectionPtr> chosen;
    if (!to.is_none()) chosen = ConnectionsOf(to, excluded);
    std::vector<ConnectionPtr> refused;
    std::size_t accepted = 0;
    {
      // A send in a hook may let go of bytes objects that are out, so a hook keeps the GIL.
      std::optional<WithoutGil> released;
      if (!Server::OnWorkerThread()) released.emplace();
      const std::string_view bytes = view.bytes();
      Server& server = native_->server;
      if (framed) {
        accepted = to.is_none() ? server.BroadcastMessage(bytes, excluded, &refused)
                                : server.BroadcastMessage(bytes, std::move(chosen), &refused);
      } else {
        accepted = to.is_none()
                       ? server.Broadcast(bytes.data(), bytes.size(), excluded, &refused)
                       : server.Broadcast(bytes.data(), bytes.size(), std::move(chosen), &refused);
      }
      if (abort_full) {
        for (const ConnectionPtr& connection : refused) connection->Abort();
      }
      if (full.is_none()) refused.clear();
    }
    for (const ConnectionPtr& connection : refused) {
      full.cast<py::list>().append(Wrap(*connection, native_->handler.hooks()));
    }
    return accepted;
  }

  // `arguments`: as ParseCall takes them.
  template <CallKind kKind>
  py::object Schedule(const py::args& arguments) {
    RefuseAfterFork();
    CallArguments call;
    PyObject* const tuple = arguments.ptr();
    if (!ParseCall(kKind, &PyTuple_GET_ITEM(tuple, 0), PyTuple_GET_SIZE(tuple), &call)) {
      throw py::error_already_set();
    }
    // A server that is stopping takes nothing any more: that handle is dead.
    if (!native_->server.running()) {
      PyErr_Format(PyExc_RuntimeError, "%s() needs a server that runs: call start() first",
                   NameOf(kKind));
      throw py::error_already_set();
    }
    TimerHandle timer;
    switch (kKind) {
      case CallKind::kSoon:
        timer = native_->server.CallSoon(std::move(call.callback));
        break;
      case CallKind::kLater:
        timer = native_->server.CallLater(call.time, std::move(call.callback));
        break;
      case CallKind::kEvery:
        timer = native_->server.CallEvery(call.time, std::move(call.callback));
        break;
    }
    py::object wrapped = py::reinterpret_steal<py::object>(WrapTimer(std::move(timer)));
    if (!wrapped) throw py::error_already_set();
    return wrapped;
  }

  py::list Connections() {
    RefuseAfterFork();
    py::list list;
    for (const ConnectionPtr& connection : native_->server.connections()) {
      list.append(Wrap(*connection, native_->handler.hooks()));
    }
    return list;
  }

  py::object Address() {
    RefuseAfterFork();
    const iocp::Address address = native_->server.address();
    if (address.family == iocp::Address::Family::kNone) return py::none();
    return py::make_tuple(address.Host(), address.port);
  }

  std::string Backend() {
    RefuseAfterFork();
    return native_->server.backend();
  }
  // Raises what every other call raises after a fork.
  void CheckUsable() { RefuseAfterFork(); }
  // Until the last worker has let go of the hooks, so that it cannot meet those of the next run.
  bool Running() const { return !InForkedChild() && !starting_ && native_->handler.has_hooks(); }
  // For people; raises nothing.
  [[nodiscard]] std::string State() const {
    if (InForkedChild()) return "of the parent process";
    const Server& server = native_->server;
    // The last worker of a run leaves before it lets go of the hooks.
    if (Running()) return server.running() && !server.stopping() ? "running" : "stopping";
    return server.address().family == iocp::Address::Family::kNone ? "new" : "stopped";
  }
  std::size_t ConnectionCount() {
    RefuseAfterFork();
    return native_->server.connection_count();
  }

  py::dict StatsDict() {
    RefuseAfterFork();
    Stats stats;
    {
      // It looks at every connection.
      const WithoutGil released;
      stats = native_->server.stats();
    }
    py::dict dict;
    dict["accepted"] = stats.accepted;
    dict["refused"] = stats.refused;
    dict["accept_errors"] = stats.accept_errors;
    dict["established"] = stats.established;
    py::list closed;
    for (const std::uint64_t count : stats.closed) closed.append(count);
    dict["closed"] = closed;
    dict["tls_handshakes"] = stats.tls_handshakes;
    dict["tls_resumed"] = stats.tls_resumed;
    py::list tls_failures;
    for (const std::uint64_t count : stats.tls_failures) tls_failures.append(count);
    dict["tls_failures"] = tls_failures;
    dict["connections"] = stats.connections;
    dict["reads"] = stats.reads;
    dict["messages"] = stats.messages;
    dict["writes"] = stats.writes;
    dict["bytes_received"] = stats.bytes_received;
    dict["bytes_sent"] = stats.bytes_sent;
    dict["hook_calls"] = stats.hook_calls;
    dict["hook_errors"] = stats.hook_errors;
    dict["hook_batches"] = stats.hook_batches;
    dict["gil_wait_seconds"] = stats.batch_wait_seconds;
    dict["hook_seconds"] = stats.hook_seconds;
    dict["buffers_in_use"] = stats.buffers_in_use;
    dict["free_buffers"] = stats.free_buffers;
    dict["free_contexts"] = stats.free_contexts;
    dict["pending_accepts"] = stats.pending_accepts;
    dict["sends_refused"] = stats.sends_refused;
    dict["broadcasts_skipped"] = stats.broadcasts_skipped;
    dict["send_backlog"] = stats.send_backlog;
    return dict;
  }

 private:
  static std::unique_ptr<HookTable> MakeTable(const py::dict& hooks, const py::tuple& reasons,
                                              bool zero_copy, const py::object& framing) {
    auto table = std::make_unique<HookTable>();
    table->established = TakeApart(hooks["on_connection_established"]);
    table->read = TakeApart(hooks["on_read_completed"]);
    table->message = TakeApart(hooks["on_message"]);
    table->messages = TakeApart(hooks["on_messages"]);
    table->write = TakeApart(hooks["on_write_completed"]);
    table->writable = TakeApart(hooks["on_writable"]);
    table->end_of_stream = TakeApart(hooks["on_end_of_stream"]);
    table->error = TakeApart(hooks["on_connection_error"]);
    table->closing = TakeApart(hooks["on_connection_closing"]);
    table->hook_error = hooks["on_hook_error"];
    table->warn = hooks["warn"];
    const py::object handshake_failed = hooks["handshake_failed"];
    if (!handshake_failed.is_none()) table->handshake_failed = handshake_failed;
    table->stopped = hooks["stopped"];
    for (std::size_t i = 0; i < kCloseReasons; ++i) table->reasons[i] = py::object(reasons[i]);
    table->zero_copy = zero_copy;
    table->framing = framing;
    return table;
  }

  std::unique_ptr<Native> native_;
  // A start under way; made and ended under the GIL.
  class Starting {
   public:
    explicit Starting(Core& core) : core_(core) {
      core_.starting_ = true;
      starts_under_way.fetch_add(1);
    }
    Starting(const Starting&) = delete;
    Starting& operator=(const Starting&) = delete;
    ~Starting() {
      core_.starting_ = false;
      starts_under_way.fetch_sub(1);
      starts_under_way.notify_all();
    }

   private:
    Core& core_;
  };

  py::object tls_ = py::none();  // of new connections; an iocp_bind.TLS, or None
  bool starting_ = false;  // true exactly while a thread is in Start past its checks; under the GIL
};

// For the end of the interpreter: no worker may begin after it, as it would ask for a GIL that does
// not come.
void RefuseStarts() {
  starts_refused = true;
  if (InForkedChild()) return;  // those under way are the parent's
  const WithoutGil released;
  for (int count = starts_under_way; count != 0; count = starts_under_way) {
    starts_under_way.wait(count);
  }
}

}  // namespace

void RegisterServer(py::module_& module) {
  py::class_<Core>(module, "Core")
      .def(py::init<>())
      .def("start", &Core::Start)
      .def("shutdown", &Core::Shutdown)
      .def("tls", &Core::tls)
      .def("set_tls", &Core::SetTls)
      .def("close_connection", &Core::CloseConnection)
      .def("close_all_connections", &Core::CloseAllConnections)
      .def("broadcast", &Core::Broadcast)
      .def("call_soon", &Core::Schedule<CallKind::kSoon>)
      .def("call_later", &Core::Schedule<CallKind::kLater>)
      .def("call_every", &Core::Schedule<CallKind::kEvery>)
      .def("connections", &Core::Connections)
      .def("address", &Core::Address)
      .def("backend", &Core::Backend)
      .def("check_usable", &Core::CheckUsable)
      .def("running", &Core::Running)
      .def("state", &Core::State)
      .def("connection_count", &Core::ConnectionCount)
      .def("stats", &Core::StatsDict);
  module.def("_refuse_starts", &RefuseStarts);
  module.def("_check_timeout", [](const py::object& value) { Timeout(value); });
  module.def("_on_worker_thread", &Server::OnWorkerThread);
  module.def("_backends", [] {
    py::list list;
    for (const BackendInfo& info : Backends()) {
      list.append(py::make_tuple(info.name, info.available, info.reason));
    }
    return list;
  });
}

}  // namespace iocp::python
