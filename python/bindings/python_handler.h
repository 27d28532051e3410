// The handler whose hooks are Python functions. Knows the GIL; knows nothing of pybind11 classes.
#pragma once

#include <iocp/iocp.h>
#include <pybind11/pybind11.h>

#include <array>
#include <memory>
#include <span>
#include <string_view>

namespace iocp::python {

// The hooks that a run calls, looked up once by start. Owned references, or null for a hook that is
// not overridden. Make, change and destroy it under the GIL.
struct HookTable {
  // A callable taken apart: a bound method's function and its self, or the callable and null.
  struct Target {
    pybind11::object function;
    pybind11::object self;

    explicit operator bool() const { return static_cast<bool>(function); }
  };

  Target established, read, message, messages, write, writable, end_of_stream, error, closing;
  pybind11::object framing;     // of new connections, or None
  pybind11::object hook_error;  // (connection, hook name, exception)
  pybind11::object warn;        // (message)
  // (host, port, index of the TLSFailure, why), or null: nobody wants to hear of it.
  pybind11::object handshake_failed;
  pybind11::object stopped;  // (); not called after a Start that failed
  std::array<pybind11::object, kCloseReasons> reasons;
  bool zero_copy = false;
};

// A worker takes the GIL once for each batch of hooks, with one thread state for its whole life.
class PythonHandler final : public Handler {
 public:
  // Before Server::Start. Under the GIL, which Start itself must not hold. The table holds the
  // Python server, so a server that runs stays alive.
  void BeginRun(std::unique_ptr<HookTable> hooks);
  // By OnStopped, and after a Start that failed. Under the GIL. Lets go of the table: when nobody
  // else holds the Python server, this object goes with it.
  void EndRun();
  // Under the GIL.
  [[nodiscard]] bool has_hooks() const { return hooks_ != nullptr; }

  // The hooks of the run; null: it is over. Good while the GIL is held. Under the GIL.
  [[nodiscard]] const HookTable* hooks() const { return hooks_.get(); }

  [[nodiscard]] unsigned WantedHooks() const override;
  void OnWorkerBegin() override;
  void OnWorkerEnd() override;
  void OnBatchBegin() override;
  void OnBatchEnd() override;
  void OnStopped() override;
  void OnConnectionEstablished(Connection& connection) override;
  void OnReadCompleted(Connection& connection, Buffer& buffer) override;
  void OnMessage(Connection& connection, Message& message) override;
  void OnMessages(Connection& connection, std::span<Message> messages) override;
  void OnWriteCompleted(Connection& connection, std::size_t bytes) override;
  void OnConnectionWritable(Connection& connection) override;
  EndOfStream OnEndOfStream(Connection& connection) override;
  void OnConnectionError(Connection& connection, Error error) override;
  void OnConnectionClosing(Connection& connection, CloseReason reason) override;
  void OnHandshakeFailed(Connection& connection, TlsFailure failure, std::string_view why) override;
  void OnHookError(Connection& connection, Hook hook, const std::exception_ptr& exception) override;
  void OnCallbackError(Connection* connection, CallKind kind,
                       const std::exception_ptr& exception) override;
  void OnConnectionReleased(Connection& connection) override;
  void OnWarning(const std::string& message) override;

 private:
  // Calls target(connection, argument...). Steals `argument`, which may be null with an error set.
  void Call(const HookTable::Target& target, Connection& connection, PyObject* argument,
            bool has_argument);
  void CallWithBytes(const HookTable::Target& target, Connection& connection, PyObject* made);
  // Calls on_hook_error with the Python error that is set; `connection` may be null.
  void ReportError(Connection* connection, const char* name);

  std::unique_ptr<HookTable> hooks_;
};

}  // namespace iocp::python
