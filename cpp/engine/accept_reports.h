// Warns the operator of clients that could not be accepted: once a minute at most, for the whole
// server.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/mutex.h"
#include "iocp/error.h"
#include "port/completion_port.h"

namespace iocp {

class Worker;

// Any worker.
class AcceptReports {
 public:
  // The system has no descriptor, buffer or memory for a client.
  void OnExhaustion(Worker& worker, const Error& error);
  // One client was refused, as there was no room for it.
  void OnRefused();
  // Once in each turn: a whole batch of refused clients is reported at once.
  void OnTurn(Worker& worker);
  // When OnTurn has something to do at the latest.
  [[nodiscard]] TimePoint NextTurn() const { return report_at_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::chrono::minutes kWarnAgain{1};

  Mutex mutex_;
  // When a shortage is worth a warning again.
  TimePoint warn_at_ IOCP_GUARDED_BY(mutex_) = TimePoint::min();
  // Refused since the operator last heard of it.
  std::uint64_t unreported_ IOCP_GUARDED_BY(mutex_) = 0;
  // When the operator may hear of it again.
  TimePoint next_report_ IOCP_GUARDED_BY(mutex_) = TimePoint::min();
  std::atomic<TimePoint> report_at_{TimePoint::max()};  // max: none is unreported
};

}  // namespace iocp
