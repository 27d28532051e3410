#include "engine/worker.h"

#include <algorithm>
#include <memory>
#include <system_error>
#include <utility>

#include "engine/engine.h"

namespace iocp {

Worker::Worker(Engine& engine, Shard& shard)
    : Owner(shard.port(), shard.index(), engine.options(), engine.handler(), engine.wanted_hooks()),
      engine_(engine),
      shard_(shard),
      batch_(kBatchCompletions) {}

Error Worker::Open() {
  try {
    return port().Open();
  } catch (const std::bad_alloc&) {
    return {ErrorKind::kOutOfResources, 0};
  }
}

void Worker::Run() {
  while (Turn()) {
  }
}

bool Worker::Turn() {
  const TurnScope scope(this);
  // Before the deadline is asked for: who changes it from now on finds a sleeper.
  if (shared()) asleep_until_.store(TimePoint::max(), std::memory_order_seq_cst);
  const TimePoint deadline = Deadline();
  if (shared()) asleep_until_.store(deadline, std::memory_order_seq_cst);
  looked_at_ = now_;
  const std::size_t count = port().Wait(batch_.data(), batch_.size(), kBatchBytes, deadline);
  if (shared()) asleep_until_.store(kAwake, std::memory_order_seq_cst);
  now_ = port().Now();
  handshake_steps_ = kHandshakeSteps;
  if (!handshakes_.empty()) ContinueHandshakes();
  for (std::size_t i = 0; i < count; ++i) {
    Dispatch(batch_[i]);
  }
  shard_.AdvanceTimers(now_, [this](Session& session) {
    session.timeouts().MarkDue();
    Acquire(session);
  });
  shard_.timer_queue().Advance(now_, [this](Session& session) { Acquire(session); });
  engine_.OnTurn(*this);
  if (engine_.stopping()) StopConnections();
  if (shared() && !active_.empty()) HandOverWatch();
  RunHooks();
  Submit();
  return !MayLeave();
}

TimePoint Worker::Deadline() {
  // Connections of the last turn have hooks due: look at the system, but do not sleep.
  if (!active_.empty() || !warnings_.empty() || !handshakes_.empty()) return TimePoint::min();
  return NextDeadline();
}

TimePoint Worker::NextDeadline() {
  TimePoint deadline =
      std::min({shard_.NextTimer(), shard_.timer_queue().Next(), engine_.NextTurn(shard_)});
  if (engine_.stopping() && !stop_enforced_) {
    deadline = std::min(deadline, engine_.stop_deadline());
  }
  return deadline;
}

// Hooks may keep this worker for long. One of the sleepers that share its port has to know the next
// deadline, which may be nearer than when they went to sleep.
void Worker::HandOverWatch() {
  const TimePoint next = NextDeadline();
  bool sleeper = false;
  for (std::size_t i = 0; i < engine_.worker_count(); ++i) {
    const TimePoint until = engine_.worker(i).asleep_until_.load(std::memory_order_seq_cst);
    if (until == kAwake) continue;
    if (until <= next) return;
    sleeper = true;
  }
  if (sleeper) shard_.Wake();
}

// ---- Who owns what.

bool Worker::Acquire(Session& session) {
  Ownership& ownership = session.ownership();
  if (ownership.IsOf(*this)) return true;
  if (shared()) {
    // Its owner is to look again; unless it lets go in this moment.
    while (!ownership.Acquire(*this)) {
      if (ownership.Notify()) return false;
    }
    active_.Push(session);
  } else {
    AcquireAlone(session);
  }
  return true;
}

void Worker::AcquireAlone(Session& session) {
  session.ownership().AcquireAlone(*this);
  active_.Push(session);
}

// False when somebody wants the session to be looked at again: it stays owned.
bool Worker::Release(Session& session) {
  if (shared()) return session.ownership().Release(*this);
  session.ownership().ReleaseAlone();
  return true;
}

void Worker::ArmTimer(Session& session, TimePoint deadline) { shard_.ArmTimer(session, deadline); }

void Worker::Retire(Session& session) {
  // Also when it is not armed: another worker may be at work in the wheel, this node in its hands.
  shard_.DisarmTimer(session);
  shard_.Remove(session);
  engine_.OnSlotFreed();
}

void Worker::PostponeHandshake(Session& session) { handshakes_.emplace_back(&session); }

// Handshakes that have waited longest come first.
void Worker::ContinueHandshakes() {
  while (!handshakes_.empty() && TakeHandshakeStep()) {
    const ConnectionPtr next = std::move(handshakes_.front());
    handshakes_.pop_front();
    Session& session = Session::Of(*next);
    // On a port with several workers this one has owned it since it was postponed.
    if (!session.finished() && Acquire(session)) session.ContinueHandshake(*this);
  }
}

// ---- The first step of a turn: what has completed.

void Worker::Dispatch(Completion& completion) {
  switch (completion.operation) {
    case Operation::kAccept:
      Listener::Of(*completion.socket).OnCompletion(*this, completion);
      return;
    case Operation::kPost:
      OnPosting(*completion.posting);
      return;
    case Operation::kBroken:
      OnBroken(completion.error);
      return;
    case Operation::kReceive:
    case Operation::kSend:
      break;
  }
  auto& session = static_cast<Session&>(*completion.socket);
  if (!shared()) {
    session.Apply(*this, completion);
    if (completion.operation == Operation::kSend && session.settled()) return;
    if (!session.ownership().IsOf(*this)) AcquireAlone(session);
    return;
  }
  if (session.ownership().IsOf(*this)) {
    session.Apply(*this, completion);
  } else if (session.ownership().Acquire(*this)) {
    active_.Push(session);
    session.Apply(*this, completion);
  } else {
    session.Leave(*this, completion);
  }
}

// Everything in flight ends by itself. One warning to the operator is enough for all workers.
void Worker::OnBroken(const Error& error) {
  // Sessions with nothing in flight too, as after the end of a peer's stream: no completion reports
  // the error to them.
  broken_ = error;
  shard_.ForEach([this](Session& session) { Acquire(session); });
  if (!engine_.FirstToBreak()) return;
  Warn([&] {
    return "backend '" + std::string(engine_.backend()) +
           "' has stopped working: the system refuses its calls (error " +
           std::to_string(error.code) + ", " + std::system_category().message(error.code) +
           "), as a seccomp filter does that was set after the start. Connections are closed and "
           "no client is accepted any more. Shut the server down, and start it with a filter that "
           "allows these calls or with another backend";
  });
}

void Worker::OnPosting(Posting& posting) {
  if (posting.tag == HandedOff::kPostingTag) {
    const std::unique_ptr<HandedOff> handed_off(static_cast<HandedOff*>(&posting));
    Adopt(handed_off->handle, handed_off->listening);
    shard_.handed_off.fetch_sub(1, std::memory_order_acq_rel);
  } else if (posting.tag == Session::kPostingTag) {
    static_cast<Session&>(posting).TakePosting(*this);
  } else {
    shard_.WakeSeen();
  }
}

void Worker::Adopt(NativeSocket handle, const Address& listening) {
  Session* session = engine_.stopping() ? nullptr : shard_.sessions().Take();
  std::unique_ptr<StageStack> stages;
  Address local = listening;
  Address remote;
  Error error{ErrorKind::kOutOfResources, 0};
  if (session != nullptr && engine_.MakeStages(shard_, now_, &stages)) {
    error = port().Adopt(*session, handle, &local, &remote);
  }
  if (error) {
    // It left before it was served, or there is no room for it: its own affair.
    counters().accept_errors.Add(1);
    port().Discard(handle, true);
    engine_.OnSlotFreed();
    if (session != nullptr) session->DropReference();
    return;
  }
  session->Begin(*this, local, remote, std::move(stages));
  // Owned before any other worker can find it.
  Acquire(*session);
  shard_.Insert(*session);
  port().Receive(*session);
  session->BeginStages(*this);
  if (engine_.stopping()) session->RequestClose(CloseReason::kShutdown);
}

void Worker::StopConnections() {
  stop_deadline_ = engine_.stop_deadline();
  const bool enforce = !stop_enforced_ && now_ >= stop_deadline_;
  if (std::exchange(stop_seen_, true) && !enforce) return;
  stop_enforced_ = stop_enforced_ || enforce;
  shard_.ForEach([this](Session& session) {
    session.RequestClose(CloseReason::kShutdown);
    // It may be closing already, with more time than is left now.
    session.timeouts().MarkDue();
    Acquire(session);
  });
}

// ---- The second step: hooks.

// False when another worker of the port is at them.
bool Worker::RunServerTimers() {
  TimerQueue& queue = shard_.timer_queue();
  if (!queue.server().ready()) return true;
  if (!queue.BeginServer()) return false;
  const bool sooner = queue.Run(queue.server(), hooks(), nullptr, port());
  // Others sleep until a deadline that may have come nearer, and these hooks may take long.
  if ((queue.EndServer() || sooner) && shared()) shard_.Wake();
  return true;
}

void Worker::RunHooks() {
  static_cast<void>(RunServerTimers());
  for (Arrival& arrival : arrivals()) arrival.session->Deliver(*this, arrival);
  arrivals().clear();
  // Hooks may send to other connections, which joins them to this list.
  for (Session* session = active_.first(); session != nullptr; session = session->next_active) {
    session->DeliverPending(*this);
  }
  for (const std::string& warning : std::exchange(warnings_, {})) {
    hooks().Enter();
    hooks().handler().OnWarning(warning);
  }
  hooks().Leave();
}

// ---- The third step: what follows.

void Worker::Submit() {
  if (active_.empty()) return;
  now_ = port().Now();  // hooks may have taken their time
  Fifo<Session, &Session::next_active> touched;
  touched.Append(active_);
  while (Session* const session = touched.Pop()) {
    if (session->finished()) {
      session->DropReference();
    } else if (session->Progress(*this) || !Release(*session)) {
      active_.Push(*session);
    }
  }
}

bool Worker::MayLeave() {
  if (!stop_seen_ || !engine_.AcceptingHasEnded() || !active_.empty() || !warnings_.empty() ||
      shard_.handed_off.load(std::memory_order_acquire) != 0 || shard_.connection_count() != 0) {
    return false;
  }
  if (shard_.index() == 0) {
    // Callbacks that the last hooks have asked for are still called, but not those that they add.
    if (!engine_.OtherShardsHaveLeft() || !RunServerTimers()) return false;
    shard_.timer_queue().CloseServer(hooks());
    hooks().Leave();
  }
  engine_.OnWorkerLeft(shard_);
  // A port with several workers wakes one of them, which has to wake the next one.
  if (shared()) shard_.Wake();
  return true;
}

}  // namespace iocp
