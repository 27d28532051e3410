// The counters of one worker.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/counter.h"
#include "iocp/close_reason.h"
#include "iocp/stats.h"

namespace iocp {

// Written by its worker, read by any thread. On cache lines of its own, since it is written all the
// time.
struct alignas(64) Counters {
  Counter accepted, refused, accept_errors, established;
  std::array<Counter, kCloseReasons> closed;
  Counter tls_handshakes, tls_resumed;
  std::array<Counter, kTlsFailures> tls_failures;
  Counter reads, messages, writes, bytes_received, bytes_sent;
  Counter hook_calls, hook_errors, hook_batches, batch_wait_nanoseconds, hook_nanoseconds;

  void AddTo(Stats& stats) const;
};

// Written and read by any thread, and so only for what happens rarely.
struct SharedCounters {
  std::atomic<std::uint64_t> sends_refused{0};
  std::atomic<std::uint64_t> broadcasts_skipped{0};

  void AddTo(Stats& stats) const;
};

}  // namespace iocp
