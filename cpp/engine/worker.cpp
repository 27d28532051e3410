#include "engine/worker.h"

#include <algorithm>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "engine/engine.h"

namespace iocp {
namespace {

thread_local Worker* current_worker = nullptr;

// The worker whose turn it is, for as long as this lives. A test may take another worker's turn
// inside a hook, on the same thread.
class CurrentScope {
 public:
  explicit CurrentScope(Worker* worker) : before_(std::exchange(current_worker, worker)) {}
  CurrentScope(const CurrentScope&) = delete;
  CurrentScope& operator=(const CurrentScope&) = delete;
  ~CurrentScope() { current_worker = before_; }

 private:
  Worker* const before_;
};

constexpr std::uintptr_t kCalled = 1;

}  // namespace

void Counters::AddTo(Stats& stats) const {
  stats.accepted += accepted.value();
  stats.refused += refused.value();
  stats.accept_errors += accept_errors.value();
  stats.established += established.value();
  for (std::size_t i = 0; i < kCloseReasons; ++i) stats.closed[i] += closed[i].value();
  stats.reads += reads.value();
  stats.writes += writes.value();
  stats.bytes_received += bytes_received.value();
  stats.bytes_sent += bytes_sent.value();
  stats.hook_calls += hook_calls.value();
  stats.hook_errors += hook_errors.value();
  stats.hook_batches += hook_batches.value();
  stats.gil_wait_seconds += static_cast<double>(batch_wait_nanoseconds.value()) * 1e-9;
  stats.hook_seconds += static_cast<double>(hook_nanoseconds.value()) * 1e-9;
}

Worker::Worker(Engine& engine, Shard& shard)
    : engine_(engine),
      shard_(shard),
      shared_(shard.port().shared()),
      now_(shard.port().Now()),
      batch_(kBatchCompletions) {
  arrivals_.reserve(kBatchCompletions);
}

Error Worker::Open() {
  try {
    return shard_.port().Open();
  } catch (const std::bad_alloc&) {
    return {ErrorKind::kOutOfResources, 0};
  }
}

Worker* Worker::Current() { return current_worker; }

SendMemory* Worker::CurrentSendMemory() {
  return current_worker != nullptr ? &current_worker->send_memory_ : nullptr;
}

void Worker::Run() {
  while (Turn()) {
  }
}

bool Worker::Turn() {
  const CurrentScope scope(this);
  CompletionPort& port = shard_.port();
  // Before the deadline is asked for: who changes it from now on finds a sleeper.
  if (shared_) asleep_until_.store(TimePoint::max(), std::memory_order_seq_cst);
  const TimePoint deadline = Deadline();
  if (shared_) asleep_until_.store(deadline, std::memory_order_seq_cst);
  looked_at_ = now_;
  const std::size_t count = port.Wait(batch_.data(), batch_.size(), kBatchBytes, deadline);
  if (shared_) asleep_until_.store(kAwake, std::memory_order_seq_cst);
  now_ = port.Now();
  for (std::size_t i = 0; i < count; ++i) {
    Dispatch(batch_[i]);
  }
  shard_.AdvanceTimers(now_, [this](Context& context) {
    context.deadline_due.store(true, std::memory_order_relaxed);
    Activate(context);
  });
  engine_.OnTurn(*this);
  if (engine_.stopping()) StopConnections();
  if (shared_ && first_active_ != nullptr) HandOverWatch();
  RunHooks();
  Submit();
  return !MayLeave();
}

TimePoint Worker::Deadline() {
  // Connections of the last turn have hooks due: look at the system, but do not sleep.
  if (first_active_ != nullptr || !warnings_.empty()) return TimePoint::min();
  return NextDeadline();
}

TimePoint Worker::NextDeadline() {
  TimePoint deadline = std::min(shard_.NextTimer(), engine_.NextTurn(shard_));
  if (engine_.stopping() && !stop_enforced_) {
    deadline = std::min(deadline, engine_.stop_deadline());
  }
  return deadline;
}

// Hooks may keep this worker for long. Of those that share its port and sleep, one has to know of
// the next deadline, which may be nearer than when they went to sleep.
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

bool Worker::Activate(Context& context) {
  while (!Hold(context)) {
    // Its holder is to look again; unless it lets go in this moment.
    std::uintptr_t holder = context.holder.load(std::memory_order_relaxed);
    if (holder == 0) continue;
    if (context.holder.compare_exchange_weak(holder, holder | kCalled, std::memory_order_acq_rel)) {
      return false;
    }
  }
  return true;
}

bool Worker::Holds(const Context& context) const {
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  return (context.holder.load(std::memory_order_relaxed) & ~kCalled) == self;
}

// True when this worker holds the connection, by now or since before.
bool Worker::Hold(Context& context) {
  if (Holds(context)) return true;
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  if (shared_) {
    std::uintptr_t holder = 0;
    if (!context.holder.compare_exchange_strong(holder, self, std::memory_order_acq_rel)) {
      return false;
    }
  } else {
    // Nobody else ever holds it.
    context.holder.store(self, std::memory_order_relaxed);
  }
  context.next_active = nullptr;
  if (first_active_ == nullptr) {
    first_active_ = &context;
  } else {
    last_active_->next_active = &context;
  }
  last_active_ = &context;
  return true;
}

// False when somebody wants the connection to be looked at again: it stays held.
bool Worker::Release(Context& context) {
  if (!shared_) {
    context.holder.store(0, std::memory_order_relaxed);
    return true;
  }
  auto holder = reinterpret_cast<std::uintptr_t>(this);
  if (context.holder.compare_exchange_strong(holder, 0, std::memory_order_acq_rel)) return true;
  // Read and written in one: what was left before any call that this takes away is seen.
  context.holder.exchange(reinterpret_cast<std::uintptr_t>(this), std::memory_order_acq_rel);
  return false;
}

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
  auto& context = static_cast<Context&>(*completion.socket);
  if (!shared_) {
    Apply(context, completion);
    if (completion.operation == Operation::kReceive || !Settled(context)) Activate(context);
    return;
  }
  if (Hold(context)) {
    Apply(context, completion);
    return;
  }
  LeaveWithHolder(context, completion);
}

// Another worker holds it, and finds this before it lets go. Called while the mutex keeps it from
// that: with the last completion of a connection its holder is free to end it.
void Worker::LeaveWithHolder(Context& context, Completion& completion) {
  const MutexLock lock(context.mutex);
  context.requested.store(true, std::memory_order_release);
  try {
    context.mailbox.push_back(std::move(completion));
  } catch (const std::bad_alloc&) {
    Context::Unkept& unkept = context.unkept;
    if (completion.operation == Operation::kSend) {
      unkept.send = true;
      unkept.sent = completion.bytes;
      unkept.send_error = completion.error;
    } else {
      ++unkept.receives;
      if (completion.last) unkept.receives_expected = completion.sequence + 1;
    }
  }
  if (context.mailbox.size() >= Context::kMostMail) {
    // Its holder may be in a hook for as long as the peer can send.
    context.mailbox_paused = true;
    shard_.port().Pause(context);
  }
  Activate(context);
}

// All that was in flight ends by itself. One word to the operator is enough for all workers.
void Worker::OnBroken(const Error& error) {
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
  } else if (posting.tag == Context::kPostingTag) {
    auto& context = static_cast<Context&>(posting);
    const MutexLock lock(context.mutex);
    context.posted = false;
    Activate(context);
  } else {
    shard_.WakeSeen();
  }
}

void Worker::Adopt(NativeSocket handle, const Address& listening) {
  CompletionPort& port = shard_.port();
  Context* context = engine_.stopping() ? nullptr : shard_.contexts().Take();
  Address local = listening;
  Address remote;
  Error error{ErrorKind::kOutOfResources, 0};
  if (context != nullptr) error = port.Adopt(*context, handle, &local, &remote);
  if (error) {
    // It left before it was served, or there is no room for it: its own affair.
    counters_.accept_errors.Add(1);
    port.Discard(handle, true);
    engine_.OnSlotFreed();
    if (context != nullptr) context->DropReference();
    return;
  }
  context->Start(shard_, engine_.options(), engine_.wanted_hooks(), now_, local, remote);
  context->receive_in_flight = true;
  // Held before any other worker can find it.
  Activate(*context);
  shard_.Insert(*context);
  port.Receive(*context);
  if (engine_.stopping()) context->RequestClose(CloseReason::kShutdown);
}

void Worker::Apply(Context& context, Completion& completion) {
  if (completion.operation == Operation::kReceive) {
    ApplyReceive(context, completion);
  } else {
    ApplySend(context, completion.bytes, completion.error);
  }
}

void Worker::ApplyReceive(Context& context, Completion& completion) {
  // Counted, for when there is no memory to put it in order.
  CountReceives(context, 1, completion.last ? completion.sequence + 1 : 0);
  // Also when it has to wait for what is before it in the stream.
  if (completion.buffer.size() != 0) context.active_at = now_;
  try {
    context.reorder.Push({completion.sequence, std::move(completion.buffer), completion.error},
                         [&](Received&& next) {
                           if (next.end.kind == ErrorKind::kCancelled) return;
                           arrivals_.push_back({&context, std::move(next.buffer), next.end});
                         });
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(context);
  }
}

void Worker::CountReceives(Context& context, std::uint64_t came, std::uint64_t expected) {
  context.receives_came += came;
  if (expected != 0) context.receives_expected = expected;
  // All have been applied, so none that another worker still has is of this connection.
  if (context.receives_came == context.receives_expected) context.receive_in_flight = false;
}

void Worker::ApplySend(Context& context, std::size_t bytes, const Error& error) {
  context.send_in_flight = false;
  if (error) {
    if (error.kind == ErrorKind::kOutOfResources) {
      RunOutOfMemory(context, error);
    } else if (error.kind != ErrorKind::kCancelled) {
      Fail(context, error);
    }
    return;
  }
  counters_.writes.Add(1);
  counters_.bytes_sent.Add(bytes);
  context.sent_bytes.Add(bytes);
  context.ended_bytes.Add(bytes);
  context.ended_charge.Add(bytes);
  context.active_at = now_;
  SendQueue ended;
  context.sending.Advance(bytes, ended);
  CompleteSends(context, ended);
}

// True when nothing follows from the send that ended: most do not need a place in this turn.
bool Worker::Settled(const Context& context) {
  return context.phase == Phase::kOpen && context.sending.empty() && context.complete.empty() &&
         context.held.empty() && !context.port_paused && !context.end_received;
}

void Worker::StopConnections() {
  const bool enforce = !stop_enforced_ && now_ >= engine_.stop_deadline();
  if (std::exchange(stop_seen_, true) && !enforce) return;
  stop_enforced_ = stop_enforced_ || enforce;
  shard_.ForEach([this](Context& context) {
    context.RequestClose(CloseReason::kShutdown);
    // It may be closing already, with more time than is left now.
    context.deadline_due.store(true, std::memory_order_relaxed);
    Activate(context);
  });
}

bool Worker::MayLeave() {
  if (!engine_.stopping() || !engine_.AcceptingHasEnded() || first_active_ != nullptr ||
      !warnings_.empty() || shard_.handed_off.load(std::memory_order_acquire) != 0 ||
      shard_.connection_count() != 0) {
    return false;
  }
  // A port with several workers wakes one of them: the next one has to be told as well.
  if (shared_) shard_.Wake();
  return true;
}

}  // namespace iocp
