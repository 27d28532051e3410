#include "engine/listener.h"

#include <algorithm>
#include <new>
#include <utility>

#include "engine/engine.h"
#include "engine/shard.h"
#include "engine/worker.h"

namespace iocp {

Listener::Listener(Engine& engine, const PortKind& kind)
    : engine_(engine), kind_(kind), not_ended_(engine.shard_count()) {
  for (std::size_t i = 0; i < engine.shard_count(); ++i) {
    sockets_.push_back(std::make_unique<ListeningSocket>(*this));
  }
}

Listener::~Listener() {
  if (handle_ != kNoSocket) kind_.close_listener(handle_);
}

Status Listener::Listen(const ListenOptions& options) {
  Status status = kind_.listen(options, &handle_, &address_);
  for (const auto& socket : sockets_) socket->handle = handle_;
  return status;
}

void Listener::OnCompletion(Worker& worker, Completion& completion) {
  auto& socket = static_cast<ListeningSocket&>(*completion.socket);
  const MutexLock lock(socket.mutex);
  Counters& counters = worker.counters();
  if (completion.error && completion.error.kind != ErrorKind::kCancelled) {
    counters.accept_errors.Add(1);
    // Once it was asked to end, there is nothing to try again.
    if (completion.error.kind == ErrorKind::kOutOfResources && !socket.cancelled) {
      OnExhaustion(worker, socket, completion.error);
    }
  } else if (!completion.error) {
    counters.accepted.Add(1);
    socket.back_off = {};
    Take(worker, completion.accepted);
  }
  if (completion.last) {
    worker.shard().port().Close(socket, false);
    End(socket);
  }
}

// The port has paused accepting by itself (R8), or has not begun.
void Listener::OnExhaustion(Worker& worker, ListeningSocket& socket, const Error& error) {
  socket.back_off = socket.back_off == std::chrono::milliseconds::zero()
                        ? kFirstBackOff
                        : std::min(2 * socket.back_off, kLastBackOff);
  socket.retry_at.store(worker.now() + socket.back_off, std::memory_order_relaxed);
  engine_.accept_reports().OnExhaustion(worker, error);
}

void Listener::Take(Worker& worker, NativeSocket accepted) {
  const bool has_slot = engine_.options().at_capacity == AtCapacity::kWait;
  if (engine_.stopping()) {
    Refuse(worker, accepted);
    if (has_slot) engine_.slots().Release();
  } else if (has_slot || engine_.slots().Take()) {
    Place(worker, accepted);
  } else {
    Refuse(worker, accepted);
    engine_.accept_reports().OnRefused();
  }
}

void Listener::Refuse(Worker& worker, NativeSocket accepted) {
  worker.counters().refused.Add(1);
  worker.shard().port().Discard(accepted, true);
}

// Long-lived connections are spread evenly: each goes where the fewest are.
void Listener::Place(Worker& worker, NativeSocket accepted) {
  Shard& shard = engine_.LeastLoadedShard(worker.shard());
  HandedOff* const handed_off =
      &shard == &worker.shard() ? nullptr : new (std::nothrow) HandedOff(accepted, address_);
  if (handed_off == nullptr) {
    worker.Adopt(accepted, address_);
    return;
  }
  shard.handed_off.fetch_add(1, std::memory_order_acq_rel);
  shard.port().Post(*handed_off);
}

void Listener::Begin(Worker& worker, ListeningSocket& socket) {
  const Error error = worker.shard().port().Accept(socket);
  if (error) {
    worker.counters().accept_errors.Add(1);
    OnExhaustion(worker, socket, error);
  } else {
    socket.begun = true;
  }
}

// The last of them closes the handle.
void Listener::End(ListeningSocket& socket) {
  socket.ended = true;
  engine_.slots().LetTryAgain(socket);
  socket.retry_at.store(TimePoint::max(), std::memory_order_relaxed);
  if (not_ended_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  kind_.close_listener(std::exchange(handle_, kNoSocket));
  done_.store(true, std::memory_order_release);
  engine_.WakeAllShards();
}

TimePoint Listener::NextTurn(const Shard& shard) const {
  return sockets_[shard.index()]->retry_at.load(std::memory_order_relaxed);
}

void Listener::OnTurn(Worker& worker) {
  ListeningSocket& socket = *sockets_[worker.shard().index()];
  const bool due = worker.now() >= socket.retry_at.load(std::memory_order_relaxed);
  const bool stop = engine_.stopping();
  const bool slot_freed =
      socket.waits_for_slot.load(std::memory_order_relaxed) && !engine_.slots().full();
  if (!due && !stop && !slot_freed) return;
  const MutexLock lock(socket.mutex);
  if (socket.ended) return;
  CompletionPort& port = worker.shard().port();
  if (stop) {
    socket.retry_at.store(TimePoint::max(), std::memory_order_relaxed);
    if (std::exchange(socket.cancelled, true)) return;
    if (socket.begun) {
      port.Cancel(socket);
    } else {
      End(socket);
    }
    return;
  }
  if (slot_freed && engine_.slots().LetTryAgain(socket)) port.Resume(socket);
  // Another worker of the shard may have been faster.
  if (worker.now() < socket.retry_at.load(std::memory_order_relaxed)) return;
  socket.retry_at.store(TimePoint::max(), std::memory_order_relaxed);
  if (socket.begun) {
    port.Resume(socket);
  } else {
    Begin(worker, socket);
  }
}

}  // namespace iocp
