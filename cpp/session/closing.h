// How a session ends: how far it is, why, and what its peer gets.
#pragma once

#include <cstdint>

#include "iocp/close_reason.h"
#include "iocp/error.h"
#include "port/completion_port.h"

namespace iocp {

// How far a session is. Closing::Enter knows which phase leads to which.
enum class Phase : std::uint8_t {
  kOpen,
  kFailing,     // the connection is broken: what the peer had sent before is still delivered
  kFlushing,    // no new sends; what is queued goes out
  kLingering,   // our stream has ended; waiting for the end of the peer's
  kCancelling,  // waiting for the last completion of everything in flight
  kClosed,      // the socket is closed; error and closing hooks are due
  kFinished,    // the hooks have run: a dead handle
};

// Belongs to the session's owner.
class Closing {
 public:
  [[nodiscard]] Phase phase() const { return phase_; }
  // The only way to change the phase. Asserts that one leads to the other.
  void Enter(Phase next);

  // For OnConnectionClosing.
  [[nodiscard]] CloseReason reason() const { return reason_; }
  void set_reason(CloseReason reason) { reason_ = reason; }
  // For OnConnectionError; kNone: it is not called.
  [[nodiscard]] const Error& error() const { return error_; }
  void set_error(const Error& error) { error_ = error; }

  // From kFailing to kLingering: what has not ended by then is cancelled.
  [[nodiscard]] TimePoint deadline() const { return deadline_; }
  void set_deadline(TimePoint deadline) { deadline_ = deadline; }

  // True exactly when the peer is to get a reset.
  [[nodiscard]] bool resets() const { return resets_; }
  void Reset() { resets_ = true; }
  // True exactly when the peer has had its time to take what was sent: a deadline for that has
  // passed, or the receive has failed.
  [[nodiscard]] bool cut_short() const { return cut_short_; }
  void CutShort() { cut_short_ = true; }

 private:
  Phase phase_ = Phase::kOpen;
  CloseReason reason_ = CloseReason::kPeerClosed;
  bool resets_ = false;
  bool cut_short_ = false;
  Error error_;
  TimePoint deadline_;
};

}  // namespace iocp
