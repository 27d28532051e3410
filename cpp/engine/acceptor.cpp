#include "engine/acceptor.h"

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "engine/engine.h"
#include "engine/shard.h"
#include "engine/worker.h"

namespace iocp {

Acceptor::Acceptor(Engine& engine, NativeSocket listener) : engine_(engine) {
  listener_.handle = listener;
  // Room for one socket from each worker, and one that the system had in hand.
  waiting_.reserve(static_cast<std::size_t>(engine.options().workers) + 1);
}

void Acceptor::Begin(CompletionPort& port) { port.Accept(listener_); }

void Acceptor::OnCompletion(Worker& worker, Completion& completion) {
  const MutexLock lock(mutex_);
  Counters& counters = worker.counters();
  if (completion.error && completion.error.kind != ErrorKind::kCancelled) {
    counters.accept_errors.Add(1);
    // Once the listener is told to end there is nothing to try again, and nobody who would.
    if (completion.error.kind == ErrorKind::kOutOfResources && !cancelled_) {
      OnExhaustion(worker, completion.error);
    }
  } else if (!completion.error) {
    counters.accepted.Add(1);
    back_off_ = {};
    Take(worker, completion.accepted);
  }
  if (completion.last) {
    worker.shard().port().Close(listener_, false);
    for (const NativeSocket handle : std::exchange(waiting_, {})) Refuse(worker, handle);
    retry_at_.store(TimePoint::max(), std::memory_order_relaxed);
    report_at_.store(TimePoint::max(), std::memory_order_relaxed);
    done_.store(true, std::memory_order_release);
    engine_.CallAllShards();
  }
}

// The port has paused accepting by itself (R8).
void Acceptor::OnExhaustion(Worker& worker, const Error& error) {
  back_off_ = back_off_ == std::chrono::milliseconds::zero()
                  ? kFirstBackOff
                  : std::min(2 * back_off_, kLastBackOff);
  // Where clients come and go all the time, each that goes ends one shortage and begins the next.
  if (worker.now() >= warn_at_) {
    warn_at_ = worker.now() + kWarnAgain;
    worker.Warn([&] {
      return "accepting is paused: the system is out of descriptors, buffers or memory (error " +
             std::to_string(error.code) +
             "); trying again every 0.1 to 1 s. Raise the limit of open files (ulimit -n) or lower "
             "max_connections";
    });
  }
  retry_at_.store(worker.now() + back_off_, std::memory_order_relaxed);
}

void Acceptor::Take(Worker& worker, NativeSocket handle) {
  const Options& options = engine_.options();
  if (cancelled_) {
    Refuse(worker, handle);
    return;
  }
  if (options.at_capacity == AtCapacity::kRefuse && !engine_.TakeSlot()) {
    Refuse(worker, handle);
    // A whole batch of them is reported at once, in OnTurn.
    if (unreported_++ == 0) report_at_.store(next_report_, std::memory_order_relaxed);
    return;
  }
  if (options.at_capacity == AtCapacity::kWait && (!waiting_.empty() || !engine_.TakeSlot())) {
    waiting_.push_back(handle);
    UpdatePause(worker);
    return;
  }
  Place(worker, handle);
  UpdatePause(worker);
}

void Acceptor::Refuse(Worker& worker, NativeSocket handle) {
  worker.counters().refused.Add(1);
  worker.shard().port().Discard(handle, true);
}

void Acceptor::ReportRefused(Worker& worker) {
  const std::uint64_t refused = std::exchange(unreported_, 0);
  const char* const since = next_report_ == TimePoint::min() ? "" : " since the last such warning";
  worker.Warn([&] {
    return "clients were refused, " + std::to_string(refused) + since + ": max_connections (" +
           std::to_string(engine_.options().max_connections) +
           ") are connected. Raise max_connections, or let clients wait with at_capacity='wait'";
  });
  next_report_ = worker.now() + kWarnAgain;
  report_at_.store(TimePoint::max(), std::memory_order_relaxed);
}

// Long-lived connections are spread evenly: each goes where the fewest are.
void Acceptor::Place(Worker& worker, NativeSocket handle) {
  Shard& shard = engine_.LeastLoadedShard();
  if (&shard == &worker.shard()) {
    worker.Adopt(handle);
    return;
  }
  auto* newcomer = new (std::nothrow) Newcomer(handle);
  if (newcomer == nullptr) {
    worker.Adopt(handle);
    return;
  }
  shard.newcomers.fetch_add(1, std::memory_order_acq_rel);
  shard.port().Post(*newcomer);
}

void Acceptor::UpdatePause(Worker& worker) {
  if (engine_.options().at_capacity == AtCapacity::kRefuse) return;
  // Room for somebody who waits already is no room for a newcomer.
  const bool full = !waiting_.empty() || engine_.full();
  if (full == full_.load(std::memory_order_relaxed)) return;
  full_.store(full, std::memory_order_seq_cst);
  if (full) {
    worker.shard().port().Pause(listener_);
    // Room may have come between the look and the flag, unseen by OnRoom.
    if (!engine_.full()) engine_.CallAcceptor();
  } else if (retry_at_.load(std::memory_order_relaxed) == TimePoint::max()) {
    worker.shard().port().Resume(listener_);
  }
}

void Acceptor::OnRoom() {
  if (full_.load(std::memory_order_seq_cst)) engine_.CallAcceptor();
}

void Acceptor::OnTurn(Worker& worker) {
  if (done()) return;
  const bool due = worker.now() >= retry_at_.load(std::memory_order_relaxed);
  const bool report = worker.now() >= report_at_.load(std::memory_order_relaxed);
  const bool stop = engine_.stopping();
  if (!due && !report && !stop && !full_.load(std::memory_order_relaxed)) return;
  const MutexLock lock(mutex_);
  CompletionPort& port = worker.shard().port();
  if (stop) {
    retry_at_.store(TimePoint::max(), std::memory_order_relaxed);
    report_at_.store(TimePoint::max(), std::memory_order_relaxed);
    if (!std::exchange(cancelled_, true)) port.Cancel(listener_);
    return;
  }
  if (report) ReportRefused(worker);
  if (due) {
    retry_at_.store(TimePoint::max(), std::memory_order_relaxed);
    if (!full_.load(std::memory_order_relaxed)) port.Resume(listener_);
  }
  while (!waiting_.empty() && engine_.TakeSlot()) {
    Place(worker, waiting_.front());
    waiting_.erase(waiting_.begin());
  }
  UpdatePause(worker);
}

}  // namespace iocp
