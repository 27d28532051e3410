#include "session/session.h"

#include <new>
#include <utility>

namespace iocp {

void Session::Begin(Owner& owner, const Address& local, const Address& remote,
                    std::unique_ptr<StageStack> stages) {
  static std::atomic<std::uint64_t> last_id{0};
  id_ = last_id.fetch_add(1, std::memory_order_relaxed) + 1;
  local_ = local;
  remote_ = remote;
  port_ = &owner.port();
  options_ = &owner.options();
  outbound_.Begin(owner.hooks().wants(kHookWrite), *options_, std::move(stages));
  outbound_.writable().Begin(owner.hooks().wants(kHookWritable), *options_);
  timeouts_.Begin(owner.now(), *options_);
  inbound_.Begin();
  if (options_->framing != nullptr) SetFirstFraming();
}

// ---- Any thread.

void Session::RequestClose(CloseReason why) {
  const MutexLock lock(inbox_.mutex());
  if (inbox_.RequestClose(why)) Wake();
}

void Session::RequestAbort(CloseReason why) {
  const MutexLock lock(inbox_.mutex());
  if (inbox_.RequestAbort(why)) Wake();
}

void Session::SetUserPaused(bool paused) {
  if (!inbox_.SetUserPaused(paused)) return;
  const MutexLock lock(inbox_.mutex());
  if (!inbox_.finished()) Wake();
}

void Session::SetTimeLimit(TimeLimit& limit, const std::optional<Duration>& timeout) {
  const MutexLock lock(inbox_.mutex());
  if (inbox_.open() && limit.Set(timeout)) Wake();
}

void Session::InheritTimeLimit(TimeLimit& limit, std::optional<Duration> Options::* option) {
  const MutexLock lock(inbox_.mutex());
  // While it is open the options are there.
  if (inbox_.open() && limit.Set(options_->*option)) Wake();
}

Owner* Session::Wake() {
  Owner* const worker = Owner::Current();
  if (worker != nullptr) {
    if (ownership_.IsOf(*worker)) return worker;
    // On a port with several workers another one should own it: this hook may wait for just that.
    if (&worker->port() == port_ && !worker->shared()) {
      return worker->Acquire(*this) ? worker : nullptr;
    }
  }
  if (inbox_.BeginPosting()) port_->Post(*this);
  return nullptr;
}

// ---- Any worker of its port.

// While the mutex is held, the owner cannot end the session, which it is free to do with the last
// completion.
void Session::Leave(Owner& worker, Completion& completion) {
  const MutexLock lock(inbox_.mutex());
  if (inbox_.Leave(std::move(completion))) port_->Pause(*this);
  worker.Acquire(*this);
}

void Session::TakePosting(Owner& worker) {
  const MutexLock lock(inbox_.mutex());
  inbox_.EndPosting();
  worker.Acquire(*this);
}

// ---- Completions.

void Session::ApplyReceive(Owner& owner, Completion& completion) {
  // Counted, for when there is no memory to put it in order.
  inbound_.Count(1, completion.last ? completion.sequence + 1 : 0);
  // Also when it has to wait for what is before it in the stream.
  if (completion.buffer.size() != 0) timeouts_.NoteReceived(owner.now());
  try {
    inbound_.Push({completion.sequence, std::move(completion.buffer), completion.error},
                  [&](Received&& in_order) {
                    if (outbound_.stages() != nullptr) {
                      ReceiveThroughStages(owner, std::move(in_order));
                    } else if (in_order.end.kind != ErrorKind::kCancelled) {
                      owner.arrivals().emplace_back(this, std::move(in_order.buffer), in_order.end);
                    }
                  });
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(owner);
  }
}

// ---- Hooks.

// Data is delivered until somebody closes, aborts or the stream breaks.
bool Session::Deliverable() const {
  return closing_.phase() <= Phase::kFailing && !inbox_.close_requested() &&
         !inbox_.abort_requested();
}

// True while what is received has to wait: for the user, or for the peer to take what was sent.
bool Session::Blocked() {
  const bool flow = inbound_.UpdateFlow(outbound_.charge(), *options_);
  return flow || inbox_.user_paused();
}

// True when the connection has to be reported although no data has come.
bool Session::EstablishedDue() const {
  return !established() && options_->established_on == EstablishedOn::kConnect &&
         (outbound_.stages() == nullptr || outbound_.stages()->ready());
}

// True when another turn has to follow because of the stages. On a port with several workers, the
// one that is to continue a handshake has to own it.
bool Session::StagesDue(const Owner& owner) const {
  return EstablishedDue() || (owner.shared() && outbound_.stages()->postponed());
}

void Session::Deliver(Owner& owner, Arrival& arrival) {
  if (arrival.end) {
    // The end waits behind deferred data, and Progress acts on it. Behind stages the stream may end
    // in order, and break then.
    if (!inbound_.ended() || (outbound_.stages() != nullptr && inbound_.ended_in_order())) {
      inbound_.End(arrival.end);
    }
    if (outbound_.stages() == nullptr && !inbound_.wire_ended()) inbound_.EndWire(arrival.end);
    return;
  }
  if (inbound_.ended()) return;  // receives behind the one that met the end
  owner.counters().reads.Add(1);
  owner.counters().bytes_received.Add(arrival.buffer.size());
  inbound_.CountBytes(arrival.buffer.size());
  FollowFraming(owner);
  // First, as it may have to wait: a callback of that time goes before the data.
  bool may_read = MayRead();
  if (may_read) EnterToRead(owner);
  if (timers_.ready() || !established()) {
    CallTimers(owner);
    if (Deliverable() && !established()) NotifyEstablished(owner);
    may_read = MayRead();
  }
  if (!may_read && !Deliverable()) return;
  if (inbound_.has_deferred() || !may_read) {
    try {
      inbound_.Defer(std::move(arrival.buffer));
    } catch (const std::bad_alloc&) {
      RunOutOfMemory(owner);
    }
    return;
  }
  DeliverBytes(owner, arrival.buffer);
  if (arrival.buffer.size() != 0 && Deliverable()) DeferFirst(owner, arrival.buffer);
}

void Session::DeliverPending(Owner& owner) {
  if (finished()) return;
  CallTimers(owner);
  FollowFraming(owner);
  if (EstablishedDue()) NotifyEstablished(owner);
  NotifyCompletedSends(owner);
  if (inbound_.has_deferred()) {
    inbound_.DeliverDeferred(
        [&] {
          if (!MayRead()) return false;
          EnterToRead(owner);
          CallTimers(owner);
          return MayRead();
        },
        [&](Buffer& buffer) { DeliverBytes(owner, buffer); });
    if (!Deliverable()) inbound_.DropDeferred();
  }
  CallTimers(owner);
  if (inbound_.ended() && EndOfStreamDue() && EndMessages(owner) && EndOfStreamDue()) {
    NotifyEndOfStream(owner);
  }
  // Behind what has waited for the peer to take bytes: a hook that sends more each time would
  // otherwise keep it waiting for ever.
  if (WritableDue()) NotifyWritable(owner);
  if (closing_.phase() == Phase::kClosed) NotifyClosed(owner);
}

void Session::NotifyEstablished(Owner& owner) {
  established_.store(true, std::memory_order_release);
  owner.counters().established.Add(1);
  owner.hooks().Run(*this, kHookEstablished,
                    [&](Handler& handler) { handler.OnConnectionEstablished(*this); });
}

void Session::NotifyRead(Owner& owner, Buffer& buffer) {
  HookBatch& hooks = owner.hooks();
  if (!hooks.wants(kHookRead)) return;
  // Looked at once the batch has begun: whoever it had to wait for may have closed the connection.
  hooks.Enter();
  if (!Deliverable()) return;
  owner.set_delivering({this, &buffer, 0});
  hooks.Run(*this, kHookRead, [&](Handler& handler) { handler.OnReadCompleted(*this, buffer); });
  owner.set_delivering({});
}

// True when the peer's stream has ended, the hooks have had all before it, and it was not reported
// yet. While reading is blocked, the end waits like data.
bool Session::EndOfStreamDue() {
  return !inbound_.end_reported() && inbound_.ended_in_order() &&
         closing_.phase() == Phase::kOpen && !inbound_.has_deferred() && !Blocked() &&
         Deliverable();
}

void Session::NotifyEndOfStream(Owner& owner) {
  HookBatch& hooks = owner.hooks();
  // A connection that was never reported has nobody to ask.
  if (established() && hooks.wants(kHookEndOfStream)) {
    // Looked at again once the batch has begun, as for a read.
    hooks.Enter();
    CallTimers(owner);
    if (!EndOfStreamDue()) return;
    hooks.Run(*this, kHookEndOfStream, [&](Handler& handler) {
      keeps_open_ = handler.OnEndOfStream(*this) == EndOfStream::kKeepOpen;
    });
  }
  inbound_.ReportEnd();
}

// True when the backlog was above the high mark and has fallen to the low one, and sends are still
// accepted, as they are not once the stream has ended and nobody keeps the connection open.
bool Session::WritableDue() const {
  return outbound_.writable().due() && established() && closing_.phase() == Phase::kOpen &&
         inbox_.open() && (!inbound_.end_reported() || keeps_open_);
}

void Session::NotifyWritable(Owner& owner) {
  HookBatch& hooks = owner.hooks();
  hooks.Enter();
  // Reading goes on now, at least with what comes next, for the reason that DeliverPending has.
  UpdateReading();
  CallTimers(owner);
  // Looked at again once the batch has begun, as for a read.
  if (!WritableDue()) return;
  outbound_.writable().Take();
  hooks.Run(*this, kHookWritable, [&](Handler& handler) { handler.OnConnectionWritable(*this); });
}

void Session::NotifyClosed(Owner& owner) {
  // Those that were due have been called: since the socket is closed there can be no more.
  CloseTimers(owner);
  closing_.Enter(Phase::kFinished);
  HookBatch& hooks = owner.hooks();
  if (outbound_.stages() != nullptr) NoteHandshakeFailure(owner);
  if (established()) {
    if (closing_.error()) {
      hooks.Run(*this, kHookError,
                [&](Handler& handler) { handler.OnConnectionError(*this, closing_.error()); });
    }
    owner.counters().closed[static_cast<std::size_t>(closing_.reason())].Add(1);
    hooks.Run(*this, kHookClosing,
              [&](Handler& handler) { handler.OnConnectionClosing(*this, closing_.reason()); });
  }
  if (user_data != nullptr) {
    hooks.Enter();
    hooks.handler().OnConnectionReleased(*this);
  }
}

// ---- The end of a turn: what follows from it is started.

bool Session::Progress(Owner& owner) {
  const std::size_t arrived = owner.arrivals().size();
  if (outbound_.stages() != nullptr && !outbound_.stages()->begun()) BeginStages(owner);
  if (inbox_.has_requests()) TakeRequests(owner);
  if (inbound_.ended()) ActOnEnd(owner);
  if (owner.broken() && closing_.phase() == Phase::kOpen && !inbound_.in_flight() &&
      !outbound_.in_flight()) {
    Fail(owner, owner.broken());
    if (inbound_.ended()) ActOnEnd(owner);  // no completion follows that would make it look again
  }
  // Completions from the inbox are delivered first, and what another framing makes of a message
  // that is late.
  if (closing_.phase() != Phase::kOpen || (owner.arrivals().size() == arrived && !FramingDue())) {
    CheckDeadlines(owner);
  }
  Flush(owner);
  AdvanceClose(owner);
  if (closing_.phase() == Phase::kCancelling) Join(owner);
  if (closing_.phase() == Phase::kClosed) return true;
  UpdateReading();
  NoteReading(owner);
  const TimePoint deadline =
      timeouts_.Earliest(*options_, closing_, inbound_, outbound_, owner.stop_deadline());
  if (timeouts_.Arm(deadline)) owner.ArmTimer(*this, deadline);
  // Completions that were left in the inbox are delivered before anybody else can own the session.
  // A stage may have become ready while another one sent.
  return owner.arrivals().size() != arrived || !outbound_.ended().empty() || WritableDue() ||
         (outbound_.stages() != nullptr && StagesDue(owner)) ||
         (inbound_.has_deferred() && !Blocked()) || (inbound_.ended() && EndOfStreamDue()) ||
         timers_.ready() || FramingDue();
}

void Session::TakeRequests(Owner& owner) {
  Inbox::Contents contents = inbox_.Take(outbound_.queue());
  if (contents.paused) inbound_.set_port_paused(true);
  for (Completion& completion : contents.mail) Apply(owner, completion);
  if (contents.lost.send) ApplySend(owner, contents.lost.sent, contents.lost.send_error);
  if (contents.lost.receives != 0) {
    inbound_.Count(contents.lost.receives, contents.lost.receives_expected);
    RunOutOfMemory(owner);
  }
  if (contents.abort && closing_.phase() < Phase::kCancelling) {
    if (closing_.phase() <= Phase::kFailing) closing_.set_reason(contents.reason);
    closing_.Reset();
    BeginCancel();
  } else if (contents.close && closing_.phase() == Phase::kOpen) {
    BeginFlush(owner, contents.reason);
  } else if (contents.close && closing_.phase() == Phase::kFailing) {
    BeginCancel();  // nobody listens any more to what came before
  }
}

// Acts on the end of the peer's stream once all data before it is delivered. When the connection is
// broken, nothing can be sent any more, which may be what the data has been waiting for.
void Session::ActOnEnd(Owner& owner) {
  const bool in_order = inbound_.ended_in_order();
  if (closing_.phase() == Phase::kOpen && !in_order) Fail(owner, inbound_.end());
  if (inbound_.has_deferred()) return;
  switch (closing_.phase()) {
    case Phase::kOpen:
      // A close or an abort that was requested meanwhile goes before it.
      if (inbound_.end_reported() && !keeps_open_ && Deliverable()) {
        BeginFlush(owner, CloseReason::kPeerClosed);
      }
      return;
    case Phase::kFailing:
      // Both directions report the same accident; a reset is the clearer word for it.
      if (inbound_.end().kind == ErrorKind::kReset) closing_.set_error(inbound_.end());
      BeginCancel();
      return;
    case Phase::kFlushing:
      if (!in_order) Fail(owner, inbound_.end());
      return;
    case Phase::kLingering:
    case Phase::kCancelling:
    case Phase::kClosed:
    case Phase::kFinished:
      return;
  }
}

// A peer may be silent while nobody listens to it. Here flow control counts from the moment that
// the backlog passes a mark, and not from the first data that has to wait for that.
void Session::NoteReading(Owner& owner) {
  timeouts_.NoteReading(inbox_.user_paused() || outbound_.stages_full() ||
                            inbound_.Congested(outbound_.charge(), *options_),
                        owner.now());
}

// Hooks may have kept this worker, or a signal may have stopped the process, for longer than a
// deadline: data that came meanwhile came in time. So a deadline counts only after a look at the
// system. A deadline that does not count yet stays due, and is judged again with the next tick.
void Session::CheckDeadlines(Owner& owner) {
  if (!timeouts_.TakeDue()) return;
  NoteReading(owner);
  const TimePoint deadline =
      timeouts_.Earliest(*options_, closing_, inbound_, outbound_, owner.stop_deadline());
  if (owner.now() < deadline) return;
  if (closing_.phase() != Phase::kOpen) {
    // One look, whatever it finds, or a peer that sends for ever would never be closed.
    if (owner.looked_at() < deadline) return;
    closing_.CutShort();
    BeginCancel();
    return;
  }
  // While a pause lasts, what the peer sends is no sign of life: it could send for ever.
  const bool paused = inbound_.port_paused() && (Blocked() || outbound_.stages_full());
  const bool receives =
      inbound_.in_flight() && !paused && port_->ReceiveAtHand(*this, inbound_.completions());
  if (receives) timeouts_.ExcuseMessage(owner.now(), *options_);
  const bool sends = outbound_.in_flight() && port_->SendAtHand(*this);
  if (!sends && outbound_.TakesBytes(port_->Unacknowledged(*this))) {
    timeouts_.NoteSent(owner.now());
    outbound_.BeginAgain(owner.now());
  }
  const std::optional<CloseReason> passed = timeouts_.Passed(
      owner.now(), owner.looked_at(), *options_, inbound_, outbound_, receives, sends);
  if (!passed) return;
  // The stream ends without waiting for the peer. A silent one may still be taking what hooks have
  // sent, and the system goes on with that: see CompletionPort::Close. Behind stages this makes no
  // sense, as the stream would lack their end.
  closing_.set_reason(*passed);
  if (!Timeouts::JudgesSilence(*passed) || outbound_.stages() != nullptr) closing_.CutShort();
  BeginCancel();
}

void Session::UpdateReading() {
  const bool stages_full = outbound_.stages_full() && closing_.phase() <= Phase::kFlushing;
  if (!inbound_.has_deferred() && !inbound_.port_paused() && !stages_full) return;
  if (!inbound_.in_flight()) return;
  // Only when data came that could not be delivered: most pauses end before the peer sends more.
  const bool listens = closing_.phase() <= Phase::kFailing;
  const bool pause = stages_full || (listens && inbound_.has_deferred() && Blocked());
  // From kFlushing on, what comes is discarded, so that the end of the peer's stream is seen.
  const bool resume = !stages_full && (!listens || (!inbound_.has_deferred() && !Blocked()));
  if (pause && !inbound_.port_paused()) {
    inbound_.set_port_paused(true);
    port_->Pause(*this);
  } else if (resume && inbound_.port_paused()) {
    inbound_.set_port_paused(false);
    port_->Resume(*this);
  }
}

// ---- Closing, in the order of the phases.

// The connection is broken. Nothing can be sent any more; what was received is still delivered, if
// anybody is still listening. A peer that lives gets a reset: what it has received is not the end
// of our stream. After that has ended in order there is nothing left to fail.
void Session::Fail(Owner& owner, const Error& error) {
  const Phase phase = closing_.phase();
  if (phase != Phase::kOpen && phase != Phase::kFlushing) return;
  // A bad frame that ended the connection before stays the reason.
  if (!closing_.error()) {
    closing_.set_error(error);
    closing_.set_reason(CloseReason::kError);
  }
  // A peer that was told why by TLS needs no reset, unless something is lost.
  if (error.kind != ErrorKind::kTls) closing_.Reset();
  if (phase == Phase::kFlushing) {
    BeginCancel();
    return;
  }
  closing_.Enter(Phase::kFailing);
  closing_.set_deadline(owner.now() + options_->close_timeout);
  inbox_.StopSends(outbound_.queue());
  if (!outbound_.in_flight()) DropSends(owner);
}

// There is no memory for what was received or is to be sent. The peer still lives, so it gets its
// reset at once; `error` is reported.
void Session::RunOutOfMemory(Owner& owner, const Error& error) {
  Fail(owner, error);
  closing_.Reset();
  if (closing_.phase() < Phase::kCancelling) BeginCancel();
}

void Session::BeginFlush(Owner& owner, CloseReason reason) {
  closing_.Enter(Phase::kFlushing);
  closing_.set_reason(reason);
  closing_.set_deadline(owner.now() + options_->close_timeout);
  inbound_.DropDeferred();
  inbox_.StopSends(outbound_.queue());
}

void Session::AdvanceClose(Owner& owner) {
  if (closing_.phase() == Phase::kFailing) {
    if (!outbound_.in_flight() && !outbound_.queue().empty()) DropSends(owner);
    // The error is reported at once, and not only when the user resumes reading.
    if (inbox_.user_paused()) BeginCancel();
  }
  if (closing_.phase() == Phase::kFlushing && outbound_.drained()) {
    if (inbound_.wire_ended()) {
      if (inbound_.wire_broke()) closing_.CutShort();
      BeginCancel();
    } else if (outbound_.stages() != nullptr && !outbound_.stages()->ready()) {
      // It was told, and whoever has not finished a handshake is not waited for. Nobody has sent it
      // anything if it was never reported, so the system need not go on trying.
      if (!established()) closing_.CutShort();
      BeginCancel();
    } else {
      port_->ShutdownSend(*this);
      closing_.Enter(Phase::kLingering);
    }
  }
  if (closing_.phase() == Phase::kLingering && inbound_.wire_ended()) {
    if (inbound_.wire_broke()) closing_.CutShort();
    BeginCancel();
  }
}

void Session::BeginCancel() {
  closing_.Enter(Phase::kCancelling);
  inbound_.DropDeferred();
  inbox_.StopSends(outbound_.queue());
  if (inbound_.in_flight() || outbound_.in_flight()) port_->Cancel(*this);
}

// The last completion of everything in flight has come: the socket is closed, nothing more follows.
void Session::Join(Owner& owner) {
  if (inbound_.in_flight() || outbound_.in_flight()) return;
  // A posting that is with the port makes a worker look at the session when it comes.
  if (!inbox_.Finish()) return;
  DropSends(owner);
  inbound_.Clear();
  if (cutter_ != nullptr) cutter_->Drop();
  // The peer has not taken all, and its time is up: the system must not go on trying.
  if (closing_.cut_short() && port_->Unacknowledged(*this) != 0) closing_.Reset();
  port_->Close(*this, closing_.resets());
  if (outbound_.stages() != nullptr) outbound_.stages()->Close();
  closing_.Enter(Phase::kClosed);
  owner.Retire(*this);
}

}  // namespace iocp
