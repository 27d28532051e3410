// One connection, from accept to its last reference: the state machine of its life.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/timer_wheel.h"
#include "iocp/address.h"
#include "iocp/buffer.h"
#include "iocp/close_reason.h"
#include "iocp/connection.h"
#include "iocp/error.h"
#include "iocp/framing.h"
#include "iocp/options.h"
#include "iocp/time.h"
#include "iocp/timer.h"
#include "iocp/tls.h"
#include "port/completion_port.h"
#include "session/closing.h"
#include "session/inbound.h"
#include "session/inbox.h"
#include "session/outbound.h"
#include "session/owner.h"
#include "session/timeouts.h"
#include "session/timer_queue.h"
#include "stage/framing/message_cutter.h"
#include "stage/stage_stack.h"

namespace iocp {

class SessionPool;

// The inside of a Connection. Any thread may call the functions marked so; everything else belongs
// to the worker that owns the session, one at a time: see Owner. A completion that comes to another
// worker waits in the inbox.
//
// Lives as long as it is referenced: by its shard until the closing hook has run, which is after
// the last completion; by ConnectionPtrs; by hooks through the shard's reference.
class Session final : public Connection, public Socket, public TimerNode, public Posting {
 public:
  static constexpr int kPostingTag = 1;

  explicit Session(SessionPool* pool) : pool_(pool) { tag = kPostingTag; }
  ~Session() = default;

  static Session& Of(Connection& connection) { return static_cast<Session&>(connection); }
  static const Session& Of(const Connection& connection) {
    return static_cast<const Session&>(connection);
  }

  // Becomes a connection of the port, which has adopted its socket. Once, by its first owner.
  // `stages` may be null. From now on the receive is in flight: the caller starts it.
  void Begin(Owner& owner, const Address& local, const Address& remote,
             std::unique_ptr<StageStack> stages);

  // --- Any thread: what Connection does.

  // Takes the item only when it answers kAccepted.
  SendResult Enqueue(SendItem* item);
  // Copies the pieces. Throws std::bad_alloc, and has queued nothing, when there is no memory.
  SendResult EnqueueCopy(const std::string_view* pieces, std::size_t count);
  // The messages that have a `release` are shared, and taken over only when it answers kAccepted.
  // Throws as Connection::SendMessages does.
  SendResult EnqueueMessages(const SharedBytes* messages, std::size_t count);
  [[nodiscard]] FramingPtr CurrentFraming() const;
  void SwitchFraming(FramingPtr framing);
  void RequestClose(CloseReason why);
  void RequestAbort(CloseReason why);
  void SetUserPaused(bool paused);
  // Those of its server, which may be gone.
  SharedCounters& shared_counters();
  // Changes one of the limits of timeouts(), to `timeout` or to the server's `option`. Neither does
  // anything once no send is accepted.
  void SetTimeLimit(TimeLimit& limit, const std::optional<Duration>& timeout);
  void InheritTimeLimit(TimeLimit& limit, std::optional<Duration> Options::* option);
  [[nodiscard]] std::optional<TlsInfo> tls_info();
  // In hooks of this connection: see Connection::tls_fault and StartTls.
  [[nodiscard]] std::string DescribeTlsFault() const;
  void BeginTls(const Tls& tls);
  // A dead handle when the session has ended. `delay` counts but for kSoon, `interval` for kEvery
  // alone. Throws std::bad_alloc.
  TimerHandle Schedule(CallKind kind, Duration delay, Duration interval, Callback&& callback);
  // True exactly when OnConnectionEstablished was due.
  [[nodiscard]] bool established() const { return established_.load(std::memory_order_acquire); }

  // --- Any worker of its port.

  // Leaves a completion with the owner, which is another worker and finds it before it lets go.
  void Leave(Owner& worker, Completion& completion);
  // The posting of this session has come: a worker is to look at it.
  void TakePosting(Owner& worker);

  // --- The owner. A turn calls Apply for what has completed, then Deliver for what was received,
  // then DeliverPending, then Progress.

  // Lets the stages send first. Once, when the receive has begun.
  void BeginStages(Owner& owner);
  // Gives the stages the bytes that had to wait for their turn: see Owner::PostponeHandshake.
  void ContinueHandshake(Owner& owner);
  void Apply(Owner& owner, Completion& completion) {
    if (completion.operation == Operation::kReceive) {
      ApplyReceive(owner, completion);
    } else {
      ApplySend(owner, completion.bytes, completion.error);
    }
  }
  // True when nothing follows from a send that has ended: most need no place in the turn.
  [[nodiscard]] bool settled() const;
  // Hands what was received in this turn to the hook.
  void Deliver(Owner& owner, Arrival& arrival);
  // Calls all other hooks that are due.
  void DeliverPending(Owner& owner);
  // Starts what follows: a send, a pause, a timer, a step of closing. True when hooks are due for
  // it, so that it has to stay owned until the next turn, which follows at once.
  bool Progress(Owner& owner);

  // --- For the worker's and the shard's lists, and for tests.

  [[nodiscard]] Phase phase() const { return closing_.phase(); }
  [[nodiscard]] bool finished() const { return closing_.phase() == Phase::kFinished; }
  Ownership& ownership() { return ownership_; }
  Timeouts& timeouts() { return timeouts_; }
  [[nodiscard]] const Timeouts& timeouts() const { return timeouts_; }
  TimerList& timers() { return timers_; }
  Inbox& inbox() { return inbox_; }
  [[nodiscard]] const Inbox& inbox() const { return inbox_; }
  [[nodiscard]] const Inbound& inbound() const { return inbound_; }
  Outbound& outbound() { return outbound_; }
  [[nodiscard]] const Outbound& outbound() const { return outbound_; }
  [[nodiscard]] const MessageCutter* cutter() const { return cutter_.get(); }

  Session* next_active = nullptr;    // in the owner's list
  Session* next_in_shard = nullptr;  // under the shard's mutex, as is the next
  Session** previous_in_shard = nullptr;

 private:
  friend class Connection;
  friend class SessionPool;
  class ArrivalSink;

  // Makes a worker look at the session; returns the owner when that is this thread's worker, so
  // that what belongs to the owner may be touched.
  Owner* Wake() IOCP_REQUIRES(inbox_.mutex());
  void WakeForTimer() IOCP_REQUIRES(inbox_.mutex());

  // Sending. Each of the first two has the answer that Connection::Send gives, when a send goes
  // into `queue` by `accept(queue)`.
  template <typename Accept>
  SendResult Admit(Accept accept);
  template <typename Accept>
  SendResult AdmitUnderLock(Accept accept) IOCP_REQUIRES(inbox_.mutex());
  const Framing* FramingToSend(FramingPtr* held);
  SendResult EnqueueFrames(const Framing& framing, const SharedBytes* messages, std::size_t count);
  SendResult EnqueueAsOne(const Framing& framing, const SharedBytes* messages, std::size_t count);
  // Accepts all items of `items`, or none.
  SendResult EnqueueAll(SendQueue& items);
  void OfferInHook();
  void CountTaken(Owner& owner, std::size_t bytes);
  void Flush(Owner& owner);
  void BeginSend(Owner& owner, const Piece* pieces, std::size_t count);
  std::size_t WriteNow(Owner& owner, const Piece* pieces, std::size_t count);
  void SendThroughStages(Owner& owner);

  // Completions.
  void ApplyReceive(Owner& owner, Completion& completion);
  void ApplySend(Owner& owner, std::size_t bytes, const Error& error);
  void ReceiveThroughStages(Owner& owner, Received&& received);
  void PassThroughStages(Owner& owner, Received&& received);
  void NoteStages(Owner& owner, const Error& error);
  void OfferLastWords(Owner& owner);
  void NoteHandshakeFailure(Owner& owner);
  [[nodiscard]] bool HasUndelivered(Owner& owner) const;

  // Hooks.
  [[nodiscard]] bool Deliverable() const;
  [[nodiscard]] bool Blocked();
  [[nodiscard]] bool EstablishedDue() const;
  [[nodiscard]] bool StagesDue(const Owner& owner) const;
  [[nodiscard]] bool EndOfStreamDue();
  [[nodiscard]] bool MayRead() { return Deliverable() && !Blocked(); }
  // For bytes that go to OnReadCompleted for sure. Most of the bytes of large messages call no
  // hook.
  void EnterToRead(Owner& owner) {
    if (cutter_ == nullptr && owner.hooks().wants(kHookRead)) owner.hooks().Enter();
  }
  // Calls the timers that are due; each hook but the last two comes after it.
  void CallTimers(Owner& owner) {
    if (timers_.ready()) RunTimers(owner);
  }
  void RunTimers(Owner& owner);
  void CloseTimers(Owner& owner);
  void NotifyEstablished(Owner& owner);
  void NotifyRead(Owner& owner, Buffer& buffer);
  // True exactly when another framing was set that is to cut what comes. Once nothing is delivered
  // any more the cutter stays: it knows what was wrong.
  [[nodiscard]] bool FramingDue() const {
    return framing_changed_.load(std::memory_order_acquire) && closing_.phase() <= Phase::kFailing;
  }
  void SetFirstFraming();
  void TakeFraming();
  void FollowFraming(Owner& owner);
  void DeliverBytes(Owner& owner, Buffer& bytes);
  bool DeliverMessages(Owner& owner, Buffer& bytes, bool last);
  bool EndMessages(Owner& owner);
  void DeferFirst(Owner& owner, Buffer& bytes);
  void FailFrame(Owner& owner, const FrameFault& fault);
  void NotifyCompletedSends(Owner& owner);
  void NotifyEndOfStream(Owner& owner);
  [[nodiscard]] bool WritableDue() const;
  void NotifyWritable(Owner& owner);
  void NotifyClosed(Owner& owner);

  // The end of a turn.
  void TakeRequests(Owner& owner);
  void ActOnEnd(Owner& owner);
  void NoteReading(Owner& owner);
  void CheckDeadlines(Owner& owner);
  void UpdateReading();

  // Closing, in the order of the phases.
  void Fail(Owner& owner, const Error& error);
  void RunOutOfMemory(Owner& owner, const Error& error = {ErrorKind::kOutOfResources, 0});
  void BeginFlush(Owner& owner, CloseReason reason);
  void AdvanceClose(Owner& owner);
  void BeginCancel();
  void Join(Owner& owner);
  void DropSends(Owner& owner);

  SessionPool* const pool_;
  Session* next_free_ = nullptr;
  mutable std::atomic<std::uint32_t> references_{1};
  std::atomic<bool> established_{false};
  bool keeps_open_ = false;  // true exactly when OnEndOfStream has answered kKeepOpen
  // Constant from Begin until the session has finished.
  CompletionPort* port_ = nullptr;
  const Options* options_ = nullptr;

  Ownership ownership_;
  Inbox inbox_;
  Inbound inbound_;
  Outbound outbound_;
  Closing closing_;
  Timeouts timeouts_;
  TimerList timers_;
  // Null without a framing, and until the first one has been looked at.
  std::unique_ptr<MessageCutter> cutter_;
  FramingPtr framing_ IOCP_GUARDED_BY(inbox_.mutex());
  // True exactly when framing_ was set, by SwitchFraming or SetFirstFraming, and the owner has not
  // looked at it since.
  std::atomic<bool> framing_changed_{false};
};

}  // namespace iocp
