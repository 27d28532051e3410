#include "session/timeouts.h"

#include <algorithm>

namespace iocp {

// In the order in which they are reported when several are up.
template <typename Visit>
void Timeouts::ForEach(const Options& options, const Inbound& inbound, const Outbound& outbound,
                       Visit visit) const {
  if (options.write_timeout && outbound.in_flight()) {
    visit(CloseReason::kWriteTimeout, outbound.began_at() + *options.write_timeout);
  }
  const TimePoint ready_by = outbound.ready_by();
  if (ready_by != TimePoint::max()) visit(CloseReason::kHandshakeTimeout, ready_by);
  // Not once the end of a stream without data was reported: nobody waits for data any more.
  if (ready_by == TimePoint::max() && options.first_data_timeout && inbound.bytes_received() == 0 &&
      !inbound.end_reported()) {
    visit(CloseReason::kFirstDataTimeout, data_due_from_ + *options.first_data_timeout);
  }
  // Nor once the stream has ended. A peer that is not listened to is not silent.
  if (const auto limit = receive_.value(); limit && !inbound.ended() && !blocked()) {
    visit(CloseReason::kReceiveTimeout, silent_since_ + *limit);
  }
  if (options.message_timeout && inside_message() && !blocked()) {
    visit(CloseReason::kMessageTimeout, message_since_ + *options.message_timeout);
  }
  if (const auto limit = idle_.value()) visit(CloseReason::kIdleTimeout, active_at_ + *limit);
}

TimePoint Timeouts::Earliest(const Options& options, const Closing& closing, const Inbound& inbound,
                             const Outbound& outbound, TimePoint stop_deadline) const {
  if (closing.phase() >= Phase::kCancelling) return TimePoint::max();
  if (closing.phase() != Phase::kOpen) return std::min(closing.deadline(), stop_deadline);
  TimePoint earliest = TimePoint::max();
  ForEach(options, inbound, outbound,
          [&](CloseReason, TimePoint deadline) { earliest = std::min(earliest, deadline); });
  return earliest;
}

std::optional<CloseReason> Timeouts::Passed(TimePoint now, TimePoint looked_at,
                                            const Options& options, const Inbound& inbound,
                                            const Outbound& outbound, bool receives,
                                            bool sends) const {
  std::optional<CloseReason> passed;
  ForEach(options, inbound, outbound, [&](CloseReason reason, TimePoint deadline) {
    if (passed || now < deadline) return;
    const bool waits_for_peer =
        reason != CloseReason::kWriteTimeout && reason != CloseReason::kMessageTimeout;
    // Otherwise a peer that sends a byte of its handshake now and then would never be late.
    const bool excused = reason == CloseReason::kHandshakeTimeout
                             ? looked_at < deadline
                             : (waits_for_peer && receives) || (!JudgesSilence(reason) && sends);
    if (!excused) passed = reason;
  });
  return passed;
}

}  // namespace iocp
