// The server and its hooks.
#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "iocp/address.h"
#include "iocp/buffer.h"
#include "iocp/close_reason.h"
#include "iocp/connection.h"
#include "iocp/error.h"
#include "iocp/options.h"
#include "iocp/stats.h"
#include "iocp/time.h"

namespace iocp {

// Hooks as bits, for Server::WantedHooks.
enum Hook : unsigned {
  kHookEstablished = 1U << 0U,
  kHookRead = 1U << 1U,
  kHookWrite = 1U << 2U,
  kHookError = 1U << 3U,
  kHookClosing = 1U << 4U,
  kHookAll = (1U << 5U) - 1,
};

class Server {
 public:
  Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  // The server must be stopped: by now the derived class and its hooks are gone, so it is too
  // late to stop here. Call Shutdown in the destructor of the most derived class. A server that
  // still runs here ends the process with a message; so a hook, in which Shutdown does not wait,
  // must not destroy a server that runs.
  virtual ~Server();

  // Returns when clients can connect. On failure nothing is left behind. In OnStopped it fails.
  [[nodiscard]] Status Start(const Options& options);

  // Stops accepting, closes every connection gracefully, aborts what is left after `timeout`, joins
  // the workers. After it no hook runs, and the server can be started again. Idempotent; safe from
  // several threads. On a worker thread, of this server or of another one, it returns at once, and
  // the shutdown goes on behind it. It waits for hooks that are running: a hook that never returns
  // is never left behind.
  void Shutdown(Duration timeout = std::chrono::seconds(5));

  // Blocks until the server is stopped, or `timeout` has passed; true when it is stopped. On a
  // worker thread it does not block.
  bool WaitUntilStopped(std::optional<Duration> timeout = std::nullopt);

  // True exactly on the worker threads of all servers in this process, from OnWorkerBegin to
  // OnStopped.
  [[nodiscard]] static bool OnWorkerThread();

  // True from a Start that succeeded until the last worker has left.
  [[nodiscard]] bool running() const;
  // The address really bound; that of the last Start when not running.
  [[nodiscard]] Address address() const;
  // "io_uring", "epoll", "iocp"; "" before the first Start.
  [[nodiscard]] std::string backend() const;
  [[nodiscard]] std::size_t connection_count() const;
  [[nodiscard]] std::vector<ConnectionPtr> connections() const;
  [[nodiscard]] Stats stats() const;

  void CloseAllConnections();
  // Sends to every open connection but `exclude`; how many accepted it.
  std::size_t Broadcast(const void* data, std::size_t size, const Connection* exclude = nullptr);

 protected:
  // The hooks. All run on worker threads. An exception that leaves one ends that connection: it
  // goes to OnHookError, and one that leaves OnHookError aborts the connection.
  virtual void OnConnectionEstablished(Connection&) {}
  virtual void OnReadCompleted(Connection&, Buffer&) {}
  // Once for each accepted Send, with its length, when its last byte is with the system.
  virtual void OnWriteCompleted(Connection&, std::size_t) {}
  virtual void OnConnectionError(Connection&, Error) {}
  virtual void OnConnectionClosing(Connection&, CloseReason) {}
  // An exception left a hook. The default aborts the connection with kHookError.
  virtual void OnHookError(Connection& connection, Hook, const std::exception_ptr&) {
    connection.Abort(CloseReason::kHookError);
  }

  // For bindings and for servers that want to know more. These must not throw, WantedHooks aside:
  // an exception that leaves one of them ends the process. ---------------------------------------

  // The hooks worth calling; one that is left out costs nothing. Asked once, by Start, and what it
  // throws leaves Start, which then has started nothing.
  [[nodiscard]] virtual unsigned WantedHooks() const { return kHookAll; }
  // A worker is about to call hooks, several in a row, or has called the last of them. A language
  // with a lock of its own takes it and gives it back here.
  virtual void OnBatchBegin() {}
  virtual void OnBatchEnd() {}
  // Inside a batch, after the last hook of a connection whose user_data is not null.
  virtual void OnConnectionReleased(Connection&) {}
  // Something an operator must know (descriptors exhausted, say; at most once a minute). Inside a
  // batch.
  virtual void OnWarning(const std::string&) {}
  // First and last call on each worker thread, outside any batch.
  virtual void OnWorkerBegin() {}
  virtual void OnWorkerEnd() {}
  // The very last call of a run, on the last worker to leave, outside any batch: no connection is
  // left and `running` is false. The server may be destroyed in it.
  virtual void OnStopped() {}

 private:
  friend class Engine;
  friend class Worker;

  struct Lifecycle;
  std::unique_ptr<Lifecycle> lifecycle_;
};

}  // namespace iocp
