#include "engine/accept_reports.h"

#include <string>
#include <utility>

#include "engine/engine.h"
#include "engine/worker.h"

namespace iocp {

void AcceptReports::OnExhaustion(Worker& worker, const Error& error) {
  const MutexLock lock(mutex_);
  // Where clients come and go all the time, each that goes ends one shortage and begins the next.
  if (worker.now() < warn_at_) return;
  warn_at_ = worker.now() + kWarnAgain;
  worker.Warn([&] {
    return "accepting is paused: the system is out of descriptors, buffers or memory (error " +
           std::to_string(error.code) +
           "); trying again every 0.1 to 1 s. Raise the limit of open files (ulimit -n) or lower "
           "max_connections";
  });
}

void AcceptReports::OnRefused() {
  const MutexLock lock(mutex_);
  if (unreported_++ == 0) report_at_.store(next_report_, std::memory_order_relaxed);
}

void AcceptReports::OnTurn(Worker& worker) {
  if (worker.now() < report_at_.load(std::memory_order_relaxed)) return;
  const MutexLock lock(mutex_);
  if (worker.now() < report_at_.load(std::memory_order_relaxed)) return;
  const std::uint64_t refused = std::exchange(unreported_, 0);
  const char* const since = next_report_ == TimePoint::min() ? "" : " since the last such warning";
  worker.Warn([&] {
    return "clients were refused, " + std::to_string(refused) + since + ": max_connections (" +
           std::to_string(worker.engine().options().max_connections) +
           ") are connected. Raise max_connections, or let clients wait with at_capacity='wait'";
  });
  next_report_ = worker.now() + kWarnAgain;
  report_at_.store(TimePoint::max(), std::memory_order_relaxed);
}

}  // namespace iocp
