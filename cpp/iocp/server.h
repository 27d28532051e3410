// The server: its threads, from Start to Shutdown.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "iocp/address.h"
#include "iocp/connection.h"
#include "iocp/error.h"
#include "iocp/handler.h"
#include "iocp/options.h"
#include "iocp/stats.h"
#include "iocp/time.h"
#include "iocp/timer.h"
#include "iocp/tls.h"

namespace iocp {

// Runs workers, which call the hooks of a handler. The handler must outlive the server: declare it
// first. If a running server is destroyed on a worker thread, workers go on calling the handler
// until OnStopped: the handler must then live until OnStopped, and may be destroyed in it.
class Server final {
 public:
  explicit Server(Handler& handler);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  // Calls Shutdown, with its default timeout: after it no hook runs. Hooks run until then, so
  // declare whatever they use before the server. On a worker thread, as in a hook, it does not
  // wait: the shutdown continues after it, each connection gets its OnConnectionClosing, and
  // OnStopped comes last. No other thread may be in a call of the server, Start included.
  ~Server();

  // Returns when clients can connect. On failure nothing is left behind. In OnStopped it fails.
  [[nodiscard]] Status Start(const Options& options);

  // Stops accepting, closes every connection gracefully, aborts what is left after `timeout`, joins
  // the workers. After it no hook runs, and the server can be started again. Idempotent; safe from
  // several threads. On a worker thread, of this server or of another one, it returns at once, and
  // the shutdown continues after it. It waits for hooks that are running, so a hook that never
  // returns keeps it waiting.
  void Shutdown(Duration timeout = std::chrono::seconds(5));

  // Blocks until the server is stopped, or `timeout` has passed; true when it is stopped. On a
  // worker thread it does not block.
  bool WaitUntilStopped(std::optional<Duration> timeout = std::nullopt);

  // True exactly on the worker threads of all servers in this process, from OnWorkerBegin to
  // OnStopped.
  [[nodiscard]] static bool OnWorkerThread();

  // True from a Start that succeeded until the last worker has left.
  [[nodiscard]] bool running() const;
  // True from the first Shutdown of a run until the last worker has left.
  [[nodiscard]] bool stopping() const;
  // The address really bound; that of the last Start when not running.
  [[nodiscard]] Address address() const;
  // "io_uring", "epoll", "iocp"; "" before the first Start.
  [[nodiscard]] std::string backend() const;
  [[nodiscard]] std::size_t connection_count() const;
  [[nodiscard]] std::vector<ConnectionPtr> connections() const;
  [[nodiscard]] Stats stats() const;

  // Calls `callback` later, on a worker. Callbacks of the server never overlap each other; hooks
  // and callbacks of connections may run at the same time where there are several workers. They go
  // on while Shutdown closes the connections, and end with it: none runs after Shutdown has
  // returned. When the server does not run the handle that is returned is dead. For everything else
  // see Connection::CallSoon.
  TimerHandle CallSoon(Callback callback);
  TimerHandle CallLater(Duration delay, Callback callback);
  TimerHandle CallEvery(Duration interval, Callback callback);

  // From now on new connections get `tls`, a server's, instead of Options::tls; those that exist
  // keep what they have. Any thread. False when the server does not run. Throws TlsError for none
  // and for a client's, and std::bad_alloc. Nothing was changed then.
  bool SetTls(const Tls& tls);

  void CloseAllConnections();

  // Sends the same bytes to every established connection except `exclude`. Returns how many have
  // accepted them. A connection that is closing does not. Neither does one whose backlog is full:
  // it is in `*full` afterwards, where that is not null. To end those, Abort each; Close would wait
  // until they read. Bytes are copied once for all, unless they are few. Throws std::bad_alloc when
  // there is no memory: some connections may have accepted them then.
  std::size_t Broadcast(const void* data, std::size_t size, const Connection* exclude = nullptr,
                        std::vector<ConnectionPtr>* full = nullptr);
  // The same for the connections in `to`, each of them once, of whatever server. Null pointers are
  // left out.
  std::size_t Broadcast(const void* data, std::size_t size, std::vector<ConnectionPtr> to,
                        std::vector<ConnectionPtr>* full = nullptr);
  // The same two for a message, which each connection sends with its framing. One without a framing
  // is left out. Throws as Connection::SendMessages does; some may have accepted it then.
  std::size_t BroadcastMessage(std::string_view message, const Connection* exclude = nullptr,
                               std::vector<ConnectionPtr>* full = nullptr);
  std::size_t BroadcastMessage(std::string_view message, std::vector<ConnectionPtr> to,
                               std::vector<ConnectionPtr>* full = nullptr);

 private:
  struct Lifecycle;
  std::unique_ptr<Lifecycle> lifecycle_;
};

}  // namespace iocp
