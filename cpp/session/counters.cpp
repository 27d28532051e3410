#include "session/counters.h"

#include <cstddef>

namespace iocp {

void Counters::AddTo(Stats& stats) const {
  stats.accepted += accepted.value();
  stats.refused += refused.value();
  stats.accept_errors += accept_errors.value();
  stats.established += established.value();
  for (std::size_t i = 0; i < kCloseReasons; ++i) stats.closed[i] += closed[i].value();
  stats.tls_handshakes += tls_handshakes.value();
  stats.tls_resumed += tls_resumed.value();
  for (std::size_t i = 0; i < kTlsFailures; ++i) stats.tls_failures[i] += tls_failures[i].value();
  stats.reads += reads.value();
  stats.messages += messages.value();
  stats.writes += writes.value();
  stats.bytes_received += bytes_received.value();
  stats.bytes_sent += bytes_sent.value();
  stats.hook_calls += hook_calls.value();
  stats.hook_errors += hook_errors.value();
  stats.hook_batches += hook_batches.value();
  stats.batch_wait_seconds += static_cast<double>(batch_wait_nanoseconds.value()) * 1e-9;
  stats.hook_seconds += static_cast<double>(hook_nanoseconds.value()) * 1e-9;
}

void SharedCounters::AddTo(Stats& stats) const {
  stats.sends_refused += sends_refused.load(std::memory_order_relaxed);
  stats.broadcasts_skipped += broadcasts_skipped.load(std::memory_order_relaxed);
}

}  // namespace iocp
