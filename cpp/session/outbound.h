// The outbound part of a session: its queue of sends, their accounting, the send in flight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <utility>

#include "base/counter.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "session/writable.h"
#include "stage/stage_stack.h"
#include "stream/send_item.h"
#include "stream/send_queue.h"

namespace iocp {

// Belongs to the session's owner, but for what any thread may ask.
class Outbound {
 public:
  // A copy of at most so many bytes may share its block with those behind it.
  static constexpr std::size_t kMostPacked = 1024;

  // --- Any thread.

  // Bytes accepted and neither with the system yet nor dropped. The ended ones are read first, so
  // they cannot be more than the queued ones. Exact for the owner, and under the inbox's mutex.
  [[nodiscard]] std::size_t backlog() const {
    const std::uint64_t ended = ended_bytes_.value();
    return static_cast<std::size_t>(queued_bytes_.value() - ended);
  }
  // The same as it was at one moment, on a thread that may stand still between two reads.
  [[nodiscard]] std::size_t BacklogAtOneMoment() const;
  // The memory that the backlog takes: its bytes, the overhead of each send that has not ended, and
  // the whole of each that has ended and was not reported. It is compared with the limit and the
  // marks.
  [[nodiscard]] std::size_t charge() const {
    const std::uint64_t ended = ended_charge_.value();
    const std::uint64_t unreported = unreported_charge_.value();
    return static_cast<std::size_t>(queued_charge_.value() - ended + unreported);
  }
  [[nodiscard]] std::uint64_t pending_sends() const {
    const std::uint64_t ended = ended_sends_.value();
    return queued_sends_.value() - ended;
  }
  [[nodiscard]] std::uint64_t bytes_sent() const { return sent_bytes_.value(); }

  // --- Under the inbox's mutex.

  // True when a send may be accepted whatever the system has taken.
  [[nodiscard]] bool HasRoom(const Options& options) const {
    return charge() < options.send_backlog_limit && !TooManySends(options);
  }
  // True when no send may be accepted: the system has refused to take as much as the limit allows
  // to wait. Bytes that nobody has offered to it yet do not count, up to kMostUntried times the
  // limit.
  [[nodiscard]] bool Full(const Options& options) const {
    const std::uint64_t ended = ended_charge_.value();
    const std::uint64_t refused = refused_charge_.value();
    return (refused > ended && refused - ended >= options.send_backlog_limit) ||
           charge() / kMostUntried >= options.send_backlog_limit || TooManySends(options);
  }
  // Puts an accepted send into `queue`, the owner's or that of the inbox.
  void Accept(SendQueue& queue, SendItem* item);
  // Copies the pieces, `size` bytes in all, into `queue`, where they may become a part of the send
  // before them. Throws std::bad_alloc, and has accepted nothing, when there is no memory. `memory`
  // is the calling worker's, or null. For few bytes, as a lock is held.
  void AcceptCopy(SendQueue& queue, const std::string_view* pieces, std::size_t count,
                  std::size_t size, SendMemory* memory);
  // True when nobody waits for the end of an empty send, so that there is nothing to accept.
  [[nodiscard]] bool Ignores(const SendItem& item) const {
    return item.size == 0 && !reports_writes_ && !item.release_in_batch;
  }

  // --- The owner's.

  // Whether OnConnectionWritable is due.
  [[nodiscard]] Writable& writable() { return writable_; }
  [[nodiscard]] const Writable& writable() const { return writable_; }

  // `reports_writes`: true exactly when OnWriteCompleted is wanted. `stages` may be null.
  void Begin(bool reports_writes, const Options& options, std::unique_ptr<StageStack> stages) {
    reports_writes_ = reports_writes;
    packs_ = !reports_writes && !options.max_pending_sends;
    stages_ = std::move(stages);
  }
  // The accepted sends that have not ended, but for those in the inbox.
  [[nodiscard]] SendQueue& queue() { return queue_; }
  [[nodiscard]] const SendQueue& queue() const { return queue_; }
  // Null without stages.
  [[nodiscard]] StageStack* stages() { return stages_.get(); }
  [[nodiscard]] const StageStack* stages() const { return stages_.get(); }
  // For a connection that had none, under the inbox's mutex.
  void set_stages(std::unique_ptr<StageStack> stages) { stages_ = std::move(stages); }
  // The most bytes that one gathered send carries.
  [[nodiscard]] std::size_t most_gathered() const {
    return stages_ == nullptr ? SendQueue::kMaxGather : StageStack::kMostAhead;
  }
  // By when the stages must be ready; max: there is no such time.
  [[nodiscard]] TimePoint ready_by() const {
    return stages_ == nullptr ? TimePoint::max() : stages_->ready_by();
  }
  // True when so much of the stages' own making waits that the peer should not be read from.
  [[nodiscard]] bool stages_full() const { return stages_ != nullptr && stages_->full(); }

  // True exactly when a send was given to the port and has not completed.
  [[nodiscard]] bool in_flight() const { return in_flight_; }
  // The bytes to send next. How many pieces; 0 when there are none.
  std::size_t Gather(Piece* pieces) const {
    return stages_ == nullptr ? queue_.Gather(pieces) : stages_->Gather(pieces);
  }
  // True exactly when a send may become a part of the one before it. Any thread.
  [[nodiscard]] bool packs() const { return packs_; }
  // A send of `bytes` is in flight from now on.
  void BeginSend(std::size_t bytes, TimePoint now) {
    in_flight_ = true;
    given_ = bytes;
    began_at_ = now;
  }
  // The system takes nothing more for now: all that waits counts as refused until it has ended, or
  // until the system is seen to take a send whole.
  void NoteRefused() { refused_charge_.Add(queued_charge_.value() - refused_charge_.value()); }
  // The charge from which on a hook offers what waits to the system before it sends more.
  [[nodiscard]] std::size_t offer_from() const { return offer_from_; }
  void set_offer_from(std::size_t charge) { offer_from_ = charge; }
  // The send in flight has ended; the system has taken `bytes` of it.
  void EndSend(std::size_t bytes) {
    in_flight_ = false;
    if (bytes == given_) refused_charge_.Subtract(refused_charge_.value());
  }
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
    return queue_.empty() && ended_.empty() && !writable_.due() &&
           (stages_ == nullptr || stages_->waiting() == 0);
  }
  // Sends that have ended, and whose OnWriteCompleted or release is due. Who takes one out calls
  // CountReported.
  [[nodiscard]] SendQueue& ended() { return ended_; }
  [[nodiscard]] const SendQueue& ended() const { return ended_; }
  void CountReported(const SendItem& item) {
    unreported_charge_.Subtract(item.size + item.overhead);
    writable_.NoteFall([this] { return charge(); });
  }
  [[nodiscard]] bool reports_writes() const { return reports_writes_; }

  // When the send in flight was given to the system, or when its peer was last seen to take bytes.
  [[nodiscard]] TimePoint began_at() const { return began_at_; }
  // True when the peer has taken bytes since the last look; also when it has some left to take and
  // was never looked at. The system takes at once what a slow peer takes little by little.
  bool TakesBytes(std::size_t unacknowledged);
  // The peer has the whole time anew for the send in flight.
  void BeginAgain(TimePoint now) { began_at_ = now; }

 private:
  // Hooks and threads may send so much more than the limit while nobody offers it to the system: a
  // worker that is busy elsewhere says nothing about the peer.
  static constexpr std::size_t kMostUntried = 16;
  static constexpr std::uint64_t kNotLookedAt = std::numeric_limits<std::uint64_t>::max();

  [[nodiscard]] bool TooManySends(const Options& options) const {
    return options.max_pending_sends &&
           pending_sends() >= static_cast<std::uint64_t>(*options.max_pending_sends);
  }
  void Complete(SendQueue& ended, SendMemory* memory);

  // Accepted sends: all of them, written under the inbox's mutex, and those that have ended,
  // written by the owner. A send that is dropped has ended like one that went out.
  Counter queued_bytes_, queued_sends_, queued_charge_;
  Counter ended_bytes_, ended_sends_, ended_charge_;
  // The next two are written by the owner.
  Counter unreported_charge_;  // of those in ended_
  Counter sent_bytes_;
  // The value of queued_charge_ when the system last took less than all. Written by the owner.
  Counter refused_charge_;
  std::size_t offer_from_ = 0;

  Writable writable_;
  bool reports_writes_ = false;
  bool packs_ = false;  // true exactly when small sends may share a block, and so become one
  bool in_flight_ = false;
  SendQueue queue_;
  SendQueue ended_;
  std::unique_ptr<StageStack> stages_;
  std::size_t given_ = 0;  // bytes of the last send
  TimePoint began_at_;
  // The bytes that the peer had acknowledged at the last look that found more to acknowledge.
  std::uint64_t acknowledged_ = kNotLookedAt;
};

}  // namespace iocp
