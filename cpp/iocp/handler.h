// The hooks, which a server calls for its user.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <string_view>

#include "iocp/buffer.h"
#include "iocp/close_reason.h"
#include "iocp/connection.h"
#include "iocp/error.h"
#include "iocp/message.h"
#include "iocp/timer.h"
#include "iocp/tls.h"

namespace iocp {

// Hooks as bits, for Handler::WantedHooks.
enum Hook : unsigned {
  kHookEstablished = 1U << 0U,
  kHookRead = 1U << 1U,
  kHookWrite = 1U << 2U,
  kHookError = 1U << 3U,
  kHookClosing = 1U << 4U,
  kHookEndOfStream = 1U << 5U,
  kHookWritable = 1U << 6U,
  kHookMessage = 1U << 7U,
  kHookAll = (1U << 8U) - 1,
  // Not among kHookAll, as it comes instead of kHookMessage.
  kHookMessages = 1U << 8U,
  // Not among kHookAll: it is for logs.
  kHookHandshakeFailed = 1U << 9U,
};

// The answer of Handler::OnEndOfStream, which explains both.
enum class EndOfStream : std::uint8_t { kClose, kKeepOpen };

// Derive from it and override the hooks that you need; the others do nothing. One handler may serve
// several servers: their hooks then run in parallel. It must live until no server calls it any
// more: Server says when that is.
class Handler {
 public:
  Handler() = default;
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  virtual ~Handler() = default;

  // The hooks. All run on worker threads, and may throw: an exception that leaves one of them goes
  // to OnHookError. -------------------------------------------------------------------------------

  virtual void OnConnectionEstablished(Connection&) {}
  virtual void OnReadCompleted(Connection&, Buffer&) {}
  // A connection with a framing has received one message; or, when kHookMessages is wanted, all
  // messages that one receive has completed, in order: 1 to 4096. A connection without one has
  // OnReadCompleted instead.
  virtual void OnMessage(Connection&, Message&) {}
  virtual void OnMessages(Connection&, std::span<Message>) {}
  // Once for each accepted Send, with its length, when its last byte is with the system.
  virtual void OnWriteCompleted(Connection&, std::size_t) {}
  // The backlog was above Options::write_high_water and has fallen to write_low_water: whoever has
  // stopped sending may go on. It comes with the next hooks after the fall, but not if sends have
  // brought the backlog above the high mark again by then; it comes later then. Called once for
  // each time that the backlog was above the high mark, whoever sent, and not once somebody has
  // closed or aborted the connection. A send that was refused counts as a backlog above the high
  // mark. Options::flow_control does not matter.
  virtual void OnConnectionWritable(Connection&) {}
  // The peer has finished sending, and the hooks have had all of it. Called at most once, and
  // not when the connection was closed or broke before. kClose sends what is queued by now and
  // closes the connection, with CloseReason::kPeerClosed; so does an exception, unless OnHookError
  // aborts. kKeepOpen leaves the connection open for sending until somebody closes it. If the peer
  // disappears in the meantime, a later send fails, or idle_timeout ends the connection.
  virtual EndOfStream OnEndOfStream(Connection&) { return EndOfStream::kClose; }
  virtual void OnConnectionError(Connection&, Error) {}
  virtual void OnConnectionClosing(Connection&, CloseReason) {}
  // When kHookHandshakeFailed is wanted: a handshake of TLS came to nothing, and the connection has
  // ended. `why` is a sentence without a full stop. No other hook is called for the connection,
  // unless it was established before StartTls. A peer can make it be called once for each
  // connection.
  virtual void OnHandshakeFailed(Connection&, TlsFailure, std::string_view /*why*/) {}
  // An exception left a hook. The default aborts the connection with kHookError. May throw as well:
  // the connection is then aborted in the same way.
  virtual void OnHookError(Connection& connection, Hook, const std::exception_ptr&) {
    connection.Abort(CloseReason::kHookError);
  }

  // An exception left a callback of `connection`, or of the server when that is null. The default
  // aborts the connection with kHookError; of the server's it reports the text with OnWarning. May
  // throw as well: a connection is then aborted in the same way.
  virtual void OnCallbackError(Connection* connection, CallKind kind,
                               const std::exception_ptr& error);

  // For bindings, and for handlers that want to know more. ----------------------------------------

  // The hooks worth calling; one that is left out costs nothing. Asked once, by Start, on its
  // thread. May throw: the exception leaves Start, which then has started nothing.
  [[nodiscard]] virtual unsigned WantedHooks() const { return kHookAll; }

  // The rest must not throw: an exception that leaves one of them ends the process.

  // A worker is about to call hooks, several in a row. A language with a lock of its own takes it
  // here. Must not throw.
  virtual void OnBatchBegin() {}
  // The worker has called the last of them; the lock is given back here. Must not throw.
  virtual void OnBatchEnd() {}
  // Inside a batch, after the last hook of a connection whose user_data is not null. Must not
  // throw.
  virtual void OnConnectionReleased(Connection&) {}
  // Something an operator must know (descriptors exhausted, say; at most once a minute). Inside a
  // batch. Must not throw.
  virtual void OnWarning(const std::string&) {}
  // The first call on each worker thread, outside any batch. Must not throw.
  virtual void OnWorkerBegin() {}
  // The last call on each worker thread but OnStopped, outside any batch. Must not throw.
  virtual void OnWorkerEnd() {}
  // The very last call of a run, on the last worker to leave, outside any batch: no connection is
  // left and `running` is false. The server and this handler may be destroyed in it. Must not
  // throw.
  virtual void OnStopped() {}
};

}  // namespace iocp
