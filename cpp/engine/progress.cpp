// The worker's third step: what follows for each connection it holds. All changes of Phase but the
// last, to kFinished, are here.
#include <algorithm>
#include <utility>

#include "engine/engine.h"
#include "engine/worker.h"

namespace iocp {

void Worker::Submit() {
  if (first_active_ == nullptr) return;
  now_ = shard_.port().Now();  // hooks may have taken their time
  Context* context = std::exchange(first_active_, nullptr);
  last_active_ = nullptr;
  while (context != nullptr) {
    Context* const next = context->next_active;
    if (context->phase == Phase::kFinished) {
      context->DropReference();
    } else if (Progress(*context) || !Release(*context)) {
      context->next_active = nullptr;
      if (first_active_ == nullptr) {
        first_active_ = context;
      } else {
        last_active_->next_active = context;
      }
      last_active_ = context;
    }
    context = next;
  }
}

// True when hooks are due for it: it stays held until the next turn, which follows at once.
bool Worker::Progress(Context& context) {
  if (context.phase == Phase::kClosed) return true;
  const std::size_t arrived = arrivals_.size();
  TakeRequests(context);
  ActOnEnd(context);
  // Completions from the mailbox are delivered first.
  if (context.phase != Phase::kOpen || arrivals_.size() == arrived) CheckDeadlines(context);
  Flush(context);
  AdvanceClose(context);
  if (context.phase == Phase::kCancelling) Join(context);
  if (context.phase == Phase::kClosed) return true;
  UpdateReading(context);
  UpdateTimer(context);
  // What another worker left in the mailbox is delivered before anybody else can hold it.
  return arrivals_.size() != arrived || !context.complete.empty() ||
         (!context.held.empty() && !Blocked(context));
}

void Worker::TakeRequests(Context& context) {
  if (!context.requested.load(std::memory_order_acquire)) return;
  std::vector<Completion> mailbox;
  Context::Unkept unkept;
  bool close = false;
  bool abort = false;
  CloseReason reason{};
  {
    const MutexLock lock(context.mutex);
    context.sending.Append(context.incoming);
    mailbox.swap(context.mailbox);
    if (std::exchange(context.mailbox_paused, false)) context.port_paused = true;
    unkept = std::exchange(context.unkept, {});
    context.requested.store(false, std::memory_order_relaxed);
    close = context.close_requested.load(std::memory_order_relaxed);
    abort = context.abort_requested.load(std::memory_order_relaxed);
    reason = context.requested_reason;
  }
  for (Completion& completion : mailbox) Apply(context, completion);
  if (unkept.send) ApplySend(context, unkept.sent, unkept.send_error);
  if (unkept.receives != 0) {
    CountReceives(context, unkept.receives, unkept.receives_expected);
    RunOutOfMemory(context);
  }
  if (abort && context.phase < Phase::kCancelling) {
    if (context.phase <= Phase::kFailing) context.reason = reason;
    context.reset_on_close = true;
    BeginCancel(context);
  } else if (close && context.phase == Phase::kOpen) {
    BeginFlush(context, reason);
  } else if (close && context.phase == Phase::kFailing) {
    BeginCancel(context);  // nobody listens any more to what came before
  }
}

// Acts on the end of the peer's stream once all data before it is delivered. When the connection is
// broken, nothing can be sent any more, which may be what the data has been waiting for.
void Worker::ActOnEnd(Context& context) {
  if (!context.end_received) return;
  const bool in_order = context.end_error.kind == ErrorKind::kEndOfStream;
  if (context.phase == Phase::kOpen && !in_order) Fail(context, context.end_error);
  if (!context.held.empty()) return;
  switch (context.phase) {
    case Phase::kOpen:
      if (!Blocked(context)) BeginFlush(context, CloseReason::kPeerClosed);
      return;
    case Phase::kFailing:
      // Both directions report the same accident; a reset is the clearer word for it.
      if (context.end_error.kind == ErrorKind::kReset) context.error = context.end_error;
      BeginCancel(context);
      return;
    case Phase::kFlushing:
      if (!in_order) Fail(context, context.end_error);
      return;
    case Phase::kLingering:
    case Phase::kCancelling:
    case Phase::kClosed:
    case Phase::kFinished:
      return;
  }
}

void Worker::StopSends(Context& context) {
  const MutexLock lock(context.mutex);
  context.open.store(false, std::memory_order_release);
  context.sending.Append(context.incoming);
}

void Worker::BeginFlush(Context& context, CloseReason reason) {
  context.phase = Phase::kFlushing;
  context.reason = reason;
  context.close_deadline = now_ + engine_.options().close_timeout;
  context.held.clear();
  StopSends(context);
}

// The connection is broken. Nothing can be sent any more; what was received is still delivered, if
// anybody is still listening. A peer that lives gets a reset: what it has received is not the end
// of our stream. After that has ended in order there is nothing left to fail.
void Worker::Fail(Context& context, Error error) {
  if (context.phase != Phase::kOpen && context.phase != Phase::kFlushing) return;
  context.error = error;
  context.reset_on_close = true;
  context.reason = CloseReason::kError;
  if (context.phase == Phase::kFlushing) {
    BeginCancel(context);
    return;
  }
  context.phase = Phase::kFailing;
  context.close_deadline = now_ + engine_.options().close_timeout;
  StopSends(context);
  if (!context.send_in_flight) DropSends(context);
}

// There is no memory for what was received or is to be sent. The peer still lives, so it gets its
// reset at once; `error` is reported.
void Worker::RunOutOfMemory(Context& context, Error error) {
  Fail(context, error);
  context.reset_on_close = true;
  if (context.phase < Phase::kCancelling) BeginCancel(context);
}

void Worker::BeginCancel(Context& context) {
  context.phase = Phase::kCancelling;
  context.held.clear();
  StopSends(context);
  if (context.receive_in_flight || context.send_in_flight) shard_.port().Cancel(context);
}

void Worker::Flush(Context& context) {
  if (context.send_in_flight || context.sending.empty()) return;
  if (context.phase != Phase::kOpen && context.phase != Phase::kFlushing) return;
  Piece pieces[kMaxPieces];
  const std::size_t count = context.sending.Gather(pieces);
  if (count == 0) {
    // Empty sends only: there is nothing to wait for.
    SendQueue ended;
    context.sending.Advance(0, ended);
    CompleteSends(context, ended);
    return;
  }
  context.send_in_flight = true;
  context.send_began_at = now_;
  shard_.port().Send(context, pieces, count);
}

void Worker::AdvanceClose(Context& context) {
  if (context.phase == Phase::kFailing) {
    if (!context.send_in_flight && !context.sending.empty()) DropSends(context);
    // The news does not wait until who has paused the connection resumes it.
    if (context.paused_by_user.load(std::memory_order_acquire)) BeginCancel(context);
  }
  if (context.phase == Phase::kFlushing && context.sending.empty() && !context.send_in_flight) {
    if (context.end_received) {
      BeginCancel(context);
    } else {
      shard_.port().ShutdownSend(context);
      context.phase = Phase::kLingering;
    }
  }
  if (context.phase == Phase::kLingering && context.end_received) {
    context.cut_short = context.end_error.kind != ErrorKind::kEndOfStream;
    BeginCancel(context);
  }
}

// The last completion of everything in flight has come: the socket is closed, nothing more follows.
void Worker::Join(Context& context) {
  if (context.receive_in_flight || context.send_in_flight) return;
  {
    const MutexLock lock(context.mutex);
    if (context.posted) return;  // it activates the connection when it comes
    context.finished = true;
  }
  DropSends(context);
  context.reorder.Clear();
  // The peer has not taken all, and nobody waits for it: the system is not to go on trying.
  if (context.cut_short && shard_.port().Unacknowledged(context) != 0) {
    context.reset_on_close = true;
  }
  shard_.port().Close(context, context.reset_on_close);
  // Also when it is not armed: another worker may be at work in the wheel, this node in its hands.
  shard_.DisarmTimer(context);
  context.phase = Phase::kClosed;
  shard_.Remove(context);
  engine_.OnSlotFreed();
}

// An empty send has ended as soon as all before it is with the system, so those at the front are
// not dropped.
void Worker::DropSends(Context& context) {
  SendQueue ended;
  context.sending.Advance(0, ended);
  while (SendItem* item = context.sending.Pop()) {
    item->dropped = true;
    ended.Push(item);
  }
  // A stream that lacks what was accepted does not end in order: the peer would take it for whole.
  const std::size_t unsent = context.backlog();
  if (unsent != 0) context.reset_on_close = true;
  context.ended_bytes.Add(unsent);
  context.ended_charge.Add(unsent);
  CompleteSends(context, ended);
}

void Worker::CompleteSends(Context& context, SendQueue& ended) {
  while (SendItem* item = ended.Pop()) {
    context.ended_sends.Add(1);
    context.ended_charge.Add(item->overhead);
    if (item->release_in_batch || (context.reports_writes && !item->dropped)) {
      context.complete.Push(item);
    } else {
      SendItem::Destroy(item, &send_memory_);
    }
  }
}

void Worker::UpdateReading(Context& context) {
  if (context.held.empty() && !context.port_paused) return;
  if (!context.receive_in_flight) return;
  // Only when data came that could not be delivered: most pauses end before the peer sends more.
  const bool pause = context.phase <= Phase::kFailing && !context.held.empty() && Blocked(context);
  // From kFlushing on, what comes is discarded, so that the end of the peer's stream is seen.
  const bool resume =
      context.phase > Phase::kFailing || (context.held.empty() && !Blocked(context));
  if (pause && !context.port_paused) {
    context.port_paused = true;
    shard_.port().Pause(context);
  } else if (resume && context.port_paused) {
    context.port_paused = false;
    shard_.port().Resume(context);
  }
}

TimePoint Worker::EarliestDeadline(const Context& context) const {
  const Options& options = engine_.options();
  if (context.phase != Phase::kOpen) {
    if (context.phase >= Phase::kCancelling) return TimePoint::max();
    return std::min(context.close_deadline, engine_.stop_deadline());
  }
  TimePoint deadline = TimePoint::max();
  if (options.first_data_timeout && context.received_bytes.value() == 0) {
    deadline = std::min(deadline, context.accepted_at + *options.first_data_timeout);
  }
  if (options.idle_timeout) {
    deadline = std::min(deadline, context.active_at + *options.idle_timeout);
  }
  if (options.write_timeout && context.send_in_flight) {
    deadline = std::min(deadline, context.send_began_at + *options.write_timeout);
  }
  return deadline;
}

// Hooks may have kept this worker, or somebody the process, for longer than a deadline: what came
// meanwhile came in time. So a deadline counts only after a look at the system. One that does not
// count yet stays due, and is looked at again with the next tick.
void Worker::CheckDeadlines(Context& context) {
  if (!context.deadline_due.load(std::memory_order_relaxed)) return;
  context.deadline_due.store(false, std::memory_order_relaxed);
  context.timer_deadline = TimePoint::max();
  const TimePoint deadline = EarliestDeadline(context);
  if (now_ < deadline) return;
  CompletionPort& port = shard_.port();
  if (context.phase != Phase::kOpen) {
    // One look, whatever it finds, or a peer that sends for ever would never be closed.
    if (looked_at_ < deadline) return;
    context.cut_short = true;
    BeginCancel(context);
    return;
  }
  const Options& options = engine_.options();
  // While a pause lasts, what the peer sends is no sign of life: it could send for ever.
  const bool receives = context.receive_in_flight && !(context.port_paused && Blocked(context)) &&
                        port.ReceiveAtHand(context, context.receives_came);
  const bool sends = context.send_in_flight && port.SendAtHand(context);
  if (!sends && TakesBytes(context)) {
    context.active_at = now_;
    context.send_began_at = now_;
  }
  if (!sends && options.write_timeout && context.send_in_flight &&
      now_ >= context.send_began_at + *options.write_timeout) {
    TimeOut(context, CloseReason::kWriteTimeout);
  } else if (!receives && options.first_data_timeout && context.received_bytes.value() == 0 &&
             now_ >= context.accepted_at + *options.first_data_timeout) {
    TimeOut(context, CloseReason::kFirstDataTimeout);
  } else if (!receives && !sends && options.idle_timeout &&
             now_ >= context.active_at + *options.idle_timeout) {
    TimeOut(context, CloseReason::kIdleTimeout);
  }
}

// True when the peer has taken bytes since the last look; also when it has some left to take and
// was never looked at. The system takes at once what a slow peer takes little by little.
bool Worker::TakesBytes(Context& context) {
  const std::uint64_t left = shard_.port().Unacknowledged(context);
  const std::uint64_t taken = context.sent_bytes.value() - left;
  const std::uint64_t before =
      std::exchange(context.acknowledged, left != 0 ? taken : Context::kNotLookedAt);
  return before == Context::kNotLookedAt ? left != 0 : taken != before;
}

// Ends the stream without waiting for a peer that has not shown itself. One that never spoke may
// still be taking what hooks have sent: the system goes on with that, as Close says.
void Worker::TimeOut(Context& context, CloseReason reason) {
  context.reason = reason;
  context.cut_short = reason != CloseReason::kFirstDataTimeout;
  BeginCancel(context);
}

// A timer that goes off too early is armed anew, so a deadline that moves on costs nothing.
void Worker::UpdateTimer(Context& context) {
  const TimePoint deadline = EarliestDeadline(context);
  if (deadline == TimePoint::max()) return;
  if (context.timer_deadline <= deadline) return;
  context.timer_deadline = deadline;
  shard_.ArmTimer(context, deadline);
}

}  // namespace iocp
