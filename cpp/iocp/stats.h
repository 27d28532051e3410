// The figures of a server.
#pragma once

#include <cstdint>

#include "iocp/close_reason.h"
#include "iocp/tls.h"

namespace iocp {

// Taken without stopping anything, so the figures may be a moment apart.
struct Stats {
  // --- Counters, since the last Start.

  // Connections taken from the system.
  std::uint64_t accepted = 0;
  // Connections that were reset at once because the server was full or stopping.
  std::uint64_t refused = 0;
  // Accepts that failed, for whatever reason.
  std::uint64_t accept_errors = 0;
  // Connections of which OnConnectionEstablished was due.
  std::uint64_t established = 0;
  // Connections of which OnConnectionClosing was due, by CloseReason.
  std::uint64_t closed[kCloseReasons]{};
  // Handshakes of TLS that were done, and how many of them have resumed a session.
  std::uint64_t tls_handshakes = 0;
  std::uint64_t tls_resumed = 0;
  // Handshakes that came to nothing, by TlsFailure. No hook is called for such a connection, unless
  // Connection::StartTls began the handshake.
  std::uint64_t tls_failures[kTlsFailures]{};
  // Receives that brought data.
  std::uint64_t reads = 0;
  // Messages that connections with a framing have received.
  std::uint64_t messages = 0;
  // Sends given to the system that it took bytes from.
  std::uint64_t writes = 0;
  // Bytes received from clients.
  std::uint64_t bytes_received = 0;
  // Bytes that the system took.
  std::uint64_t bytes_sent = 0;
  // Calls of hooks and of callbacks.
  std::uint64_t hook_calls = 0;
  // Exceptions that left a hook or a callback.
  std::uint64_t hook_errors = 0;
  // Pairs of OnBatchBegin and OnBatchEnd.
  std::uint64_t hook_batches = 0;
  // Spent in OnBatchBegin, by all workers: waiting for a language's lock.
  double batch_wait_seconds = 0;
  // Spent between OnBatchBegin and OnBatchEnd, by all workers.
  double hook_seconds = 0;
  // Sends that were answered kBacklogFull.
  std::uint64_t sends_refused = 0;
  // Connections that were left out of a broadcast because their backlog was full.
  std::uint64_t broadcasts_skipped = 0;

  // --- Gauges: how many there are now.

  // Connections that exist.
  std::uint64_t connections = 0;
  // Receive buffers that hold data not yet let go.
  std::uint64_t buffers_in_use = 0;
  // Receive buffers kept for reuse, or posted and still empty.
  std::uint64_t free_buffers = 0;
  // Connection objects kept for reuse.
  std::uint64_t free_contexts = 0;
  // Accept operations with the system.
  std::uint64_t pending_accepts = 0;
  // Bytes that all connections together have accepted and the system has not taken yet.
  std::uint64_t send_backlog = 0;
};

}  // namespace iocp
