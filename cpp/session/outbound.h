// The outbound part of a session: its queue of sends, their accounting, the send in flight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

#include "base/counter.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "stage/stage_stack.h"
#include "stream/send_item.h"
#include "stream/send_queue.h"

namespace iocp {

// Belongs to the session's owner, but for what any thread may ask.
class Outbound {
 public:
  // --- Any thread.

  // Bytes accepted and neither with the system yet nor dropped. The ended ones are read first, so
  // they cannot be more than the queued ones. Exact for the owner, and under the inbox's mutex.
  [[nodiscard]] std::size_t backlog() const {
    const std::uint64_t ended = ended_bytes_.value();
    return static_cast<std::size_t>(queued_bytes_.value() - ended);
  }
  // The same as it was at one moment, on a thread that may stand still between two reads.
  [[nodiscard]] std::size_t BacklogAtOneMoment() const;
  // The memory that the backlog takes: its bytes and the overhead of each send that has not ended.
  // It is compared with the limit and the marks.
  [[nodiscard]] std::size_t charge() const {
    const std::uint64_t ended = ended_charge_.value();
    return static_cast<std::size_t>(queued_charge_.value() - ended);
  }
  [[nodiscard]] std::uint64_t pending_sends() const {
    const std::uint64_t ended = ended_sends_.value();
    return queued_sends_.value() - ended;
  }
  [[nodiscard]] std::uint64_t bytes_sent() const { return sent_bytes_.value(); }

  // --- Under the inbox's mutex.

  // True when no send may be accepted.
  [[nodiscard]] bool Full(const Options& options) const {
    return charge() >= options.send_backlog_limit ||
           (options.max_pending_sends &&
            pending_sends() >= static_cast<std::uint64_t>(*options.max_pending_sends));
  }
  // Puts an accepted send into `queue`, the owner's or that of the inbox. False when it has become
  // a part of the send before it, so that the item is the caller's.
  bool Accept(SendQueue& queue, SendItem* item, const Options& options);

  // --- The owner's.

  // `reports_writes`: true exactly when OnWriteCompleted is wanted. `stages` may be null.
  void Begin(bool reports_writes, std::unique_ptr<StageStack> stages) {
    reports_writes_ = reports_writes;
    stages_ = std::move(stages);
  }
  // The accepted sends that have not ended, but for those in the inbox.
  [[nodiscard]] SendQueue& queue() { return queue_; }
  [[nodiscard]] const SendQueue& queue() const { return queue_; }
  // Null without stages.
  [[nodiscard]] StageStack* stages() { return stages_.get(); }
  [[nodiscard]] const StageStack* stages() const { return stages_.get(); }
  // True when so much of the stages' own making waits that the peer should not be read from.
  [[nodiscard]] bool stages_full() const { return stages_ != nullptr && stages_->full(); }

  // True exactly when a send was given to the port and has not completed.
  [[nodiscard]] bool in_flight() const { return in_flight_; }
  // The pieces of the next send, which is in flight from now on. 0 when there is nothing to send.
  std::size_t BeginSend(Piece* pieces, TimePoint now);
  // The send in flight has ended; the system has taken `bytes` of it.
  void EndSend() { in_flight_ = false; }
  void CountSent(std::size_t bytes, SendMemory* memory);
  // Ends the sends that are complete without another byte: empty ones at the front, and those that
  // a stage has made nothing of.
  void CountEmpty(SendMemory* memory);
  // Drops what is queued. True when bytes were lost that had been accepted. An empty send has ended
  // as soon as all before it is with the system, so those at the front are not dropped.
  bool Drop(SendMemory* memory);
  // True when all that was to be sent is with the system, the ends of the stages' streams included.
  [[nodiscard]] bool drained() const {
    return !in_flight_ && queue_.empty() &&
           (stages_ == nullptr || (stages_->ended() && stages_->empty()));
  }
  // True when nothing follows from a send that has ended.
  [[nodiscard]] bool settled() const {
    return queue_.empty() && ended_.empty() && (stages_ == nullptr || stages_->waiting() == 0);
  }
  // Sends that have ended, and whose OnWriteCompleted or release is due.
  [[nodiscard]] SendQueue& ended() { return ended_; }
  [[nodiscard]] const SendQueue& ended() const { return ended_; }

  // When the send in flight was given to the system, or when its peer was last seen to take bytes.
  [[nodiscard]] TimePoint began_at() const { return began_at_; }
  // True when the peer has taken bytes since the last look; also when it has some left to take and
  // was never looked at. The system takes at once what a slow peer takes little by little.
  bool TakesBytes(std::size_t unacknowledged);
  // The peer has the whole time anew for the send in flight.
  void BeginAgain(TimePoint now) { began_at_ = now; }

 private:
  static constexpr std::uint64_t kNotLookedAt = std::numeric_limits<std::uint64_t>::max();

  void Complete(SendQueue& ended, SendMemory* memory);

  // Accepted sends: all of them, written under the inbox's mutex, and those that have ended,
  // written by the owner. A send that is dropped has ended like one that went out.
  Counter queued_bytes_, queued_sends_, queued_charge_;
  Counter ended_bytes_, ended_sends_, ended_charge_;
  Counter sent_bytes_;  // written by the owner

  bool reports_writes_ = false;
  bool in_flight_ = false;
  SendQueue queue_;
  SendQueue ended_;
  std::unique_ptr<StageStack> stages_;
  TimePoint began_at_;
  // The bytes that the peer had acknowledged at the last look that found more to acknowledge.
  std::uint64_t acknowledged_ = kNotLookedAt;
};

}  // namespace iocp
