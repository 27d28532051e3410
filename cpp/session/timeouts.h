// When a session runs out of time.
#pragma once

#include <atomic>
#include <optional>

#include "iocp/close_reason.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "session/closing.h"
#include "session/inbound.h"
#include "session/outbound.h"

namespace iocp {

// Belongs to the session's owner, but for MarkDue.
class Timeouts {
 public:
  void Begin(TimePoint now) {
    accepted_at_ = now;
    active_at_ = now;
  }
  // Bytes have moved, in or out.
  void NoteActivity(TimePoint now) { active_at_ = now; }

  // The earliest deadline of all that apply; max: none does.
  [[nodiscard]] TimePoint Earliest(const Options& options, const Closing& closing,
                                   const Inbound& inbound, const Outbound& outbound,
                                   TimePoint stop_deadline) const;
  // The first timeout of an open session whose time is up. `receives`, `sends`: true exactly when
  // the system has something for the session that has not been seen, so that it is not silent.
  [[nodiscard]] std::optional<CloseReason> Passed(TimePoint now, const Options& options,
                                                  const Inbound& inbound, const Outbound& outbound,
                                                  bool receives, bool sends) const;

  // The timer has gone off, or the time of the server that stops is up. Any worker of the shard.
  void MarkDue() { due_.store(true, std::memory_order_relaxed); }
  // True when a deadline has to be looked at, which it is by this.
  bool TakeDue() {
    if (!due_.load(std::memory_order_relaxed)) return false;
    due_.store(false, std::memory_order_relaxed);
    armed_for_ = TimePoint::max();
    return true;
  }
  // True when the timer has to be armed for `deadline`. One that goes off too early is armed anew,
  // so a deadline that moves on costs nothing.
  bool Arm(TimePoint deadline) {
    if (deadline == TimePoint::max() || armed_for_ <= deadline) return false;
    armed_for_ = deadline;
    return true;
  }

 private:
  // The conditions of all timeouts of an open session: calls `visit(reason, deadline)` for each
  // that applies.
  template <typename Visit>
  void ForEach(const Options& options, const Inbound& inbound, const Outbound& outbound,
               Visit visit) const;

  TimePoint accepted_at_;
  TimePoint active_at_;
  // The time that the timer is armed for. max: it is not armed, or it has gone off and TakeDue has
  // seen that. The wheel knows it exactly, but belongs to all workers of the shard.
  TimePoint armed_for_ = TimePoint::max();
  // True exactly when MarkDue was called and TakeDue was not since. Atomic, as it is set before the
  // session is acquired.
  std::atomic<bool> due_{false};
};

}  // namespace iocp
