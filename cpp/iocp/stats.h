// The counters of a server.
#pragma once

#include <cstdint>

#include "iocp/close_reason.h"

namespace iocp {

// Counters since the last Start; taken without stopping anything, so they may be a moment apart.
struct Stats {
  std::uint64_t accepted = 0;             // connections taken from the system
  std::uint64_t refused = 0;              // of those, reset because the server was full or stopping
  std::uint64_t accept_errors = 0;        // accepts that failed, for whatever reason
  std::uint64_t established = 0;          // OnConnectionEstablished was due
  std::uint64_t closed[kCloseReasons]{};  // OnConnectionClosing was due, by CloseReason
  std::uint64_t connections = 0;          // now
  std::uint64_t reads = 0;                // receives that brought data
  std::uint64_t writes = 0;               // sends given to the system that it took bytes from
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t hook_calls = 0;
  std::uint64_t hook_errors = 0;
  std::uint64_t hook_batches = 0;     // OnBatchBegin .. OnBatchEnd
  double batch_wait_seconds = 0;      // spent in OnBatchBegin: waiting for a language's lock
  double hook_seconds = 0;            // spent between OnBatchBegin and OnBatchEnd
  std::uint64_t buffers_in_use = 0;   // receive buffers that hold data not yet let go
  std::uint64_t free_buffers = 0;     // receive buffers kept for reuse, or posted and still empty
  std::uint64_t free_contexts = 0;    // connection objects kept for reuse
  std::uint64_t pending_accepts = 0;  // accept operations with the system now
};

}  // namespace iocp
