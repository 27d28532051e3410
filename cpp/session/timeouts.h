// When a session runs out of time.
#pragma once

#include <algorithm>
#include <atomic>
#include <optional>

#include "iocp/close_reason.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "session/closing.h"
#include "session/inbound.h"
#include "session/outbound.h"
#include "session/time_limit.h"

namespace iocp {

// Belongs to the session's owner, but for MarkDue and the two limits.
class Timeouts {
 public:
  void Begin(TimePoint now, const Options& options) {
    data_due_from_ = now;
    active_at_ = now;
    silent_since_ = now;
    idle_.Set(options.idle_timeout);
    receive_.Set(options.receive_timeout);
  }
  // Those that a connection may have of its own. The owner looks at them at the end of each turn,
  // so whoever changes one wakes it.
  [[nodiscard]] TimeLimit& idle() { return idle_; }
  [[nodiscard]] const TimeLimit& idle() const { return idle_; }
  [[nodiscard]] TimeLimit& receive() { return receive_; }
  [[nodiscard]] const TimeLimit& receive() const { return receive_; }

  // The handshake is done: data may come from now on.
  void NoteReady(TimePoint now) { data_due_from_ = now; }
  // Bytes have been sent, or taken by the peer.
  void NoteSent(TimePoint now) { active_at_ = now; }
  void NoteReceived(TimePoint now) {
    active_at_ = now;
    silent_since_ = now;
  }
  // Whether reading is blocked, as it was since the last call. Before a deadline is asked for.
  void NoteReading(bool blocked, TimePoint now) {
    if (blocked == this->blocked()) return;
    // The silence during the block does not count.
    if (!blocked) {
      silent_since_ += now - std::max(blocked_at_, silent_since_);
      if (inside_message()) message_since_ += now - std::max(blocked_at_, message_since_);
    }
    blocked_at_ = blocked ? now : TimePoint::max();
  }
  // A part of a message has come, and its last byte has not; or it has.
  void BeginMessage(TimePoint now) {
    if (inside_message()) return;
    message_since_ = now;
    message_excused_ = false;
  }
  void EndMessage() { message_since_ = TimePoint::max(); }
  // Something was received that has not been seen: it may hold the end of a message whose time is
  // up. The message has its time again, but only once: a peer could send for ever.
  void ExcuseMessage(TimePoint now, const Options& options) {
    if (!options.message_timeout || !inside_message() || blocked() || message_excused_) return;
    if (now < message_since_ + *options.message_timeout) return;
    message_since_ = now;
    message_excused_ = true;
  }
  // True exactly when a change of what blocks reading has to be noted, although nothing else is
  // due.
  [[nodiscard]] bool waits_for_reading() const {
    return blocked() && (receive_.value() || inside_message());
  }

  // The earliest deadline of all that apply; max: none does.
  [[nodiscard]] TimePoint Earliest(const Options& options, const Closing& closing,
                                   const Inbound& inbound, const Outbound& outbound,
                                   TimePoint stop_deadline) const;
  // The first timeout of an open session whose time is up. `receives`, `sends`: true exactly when
  // the system has something for the session that has not been seen, so that it is not silent; see
  // ExcuseMessage for messages. `looked_at`: when the last look at the system began. A handshake is
  // late once that was after its deadline, whatever the look has found.
  [[nodiscard]] std::optional<CloseReason> Passed(TimePoint now, TimePoint looked_at,
                                                  const Options& options, const Inbound& inbound,
                                                  const Outbound& outbound, bool receives,
                                                  bool sends) const;

  // True exactly when `reason` asks for the voice of the peer, whatever it is sent and takes.
  [[nodiscard]] static bool JudgesSilence(CloseReason reason) {
    return reason == CloseReason::kFirstDataTimeout || reason == CloseReason::kReceiveTimeout ||
           reason == CloseReason::kMessageTimeout;
  }

  // True exactly when `reason` is one of these timeouts.
  [[nodiscard]] static bool IsTimeout(CloseReason reason) {
    return JudgesSilence(reason) || reason == CloseReason::kHandshakeTimeout ||
           reason == CloseReason::kIdleTimeout || reason == CloseReason::kWriteTimeout;
  }

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
  [[nodiscard]] bool blocked() const { return blocked_at_ != TimePoint::max(); }
  [[nodiscard]] bool inside_message() const { return message_since_ != TimePoint::max(); }
  // The conditions of all timeouts of an open session: calls `visit(reason, deadline)` for each
  // that applies.
  template <typename Visit>
  void ForEach(const Options& options, const Inbound& inbound, const Outbound& outbound,
               Visit visit) const;

  TimePoint data_due_from_;  // when it was accepted; with stages, when they were ready
  TimePoint active_at_;
  // When the peer was last heard, or accepted, and later by as long as reading was blocked since.
  TimePoint silent_since_;
  TimePoint blocked_at_ = TimePoint::max();  // max: reading is not blocked, as far as is noted
  // When the first byte of the message that is not complete came, and later by as long as reading
  // was blocked since; max: there is none.
  TimePoint message_since_ = TimePoint::max();
  TimeLimit idle_;
  TimeLimit receive_;
  // The time that the timer is armed for. max: it is not armed, or it has gone off and TakeDue has
  // seen that. The wheel knows it exactly, but belongs to all workers of the shard.
  TimePoint armed_for_ = TimePoint::max();
  // True exactly when MarkDue was called and TakeDue was not since. Atomic, as it is set before the
  // session is acquired.
  std::atomic<bool> due_{false};
  bool message_excused_ = false;  // true exactly when the message has its time again
};

}  // namespace iocp
