#include "engine/shard.h"

namespace iocp {
namespace {

PortOptions ForPort(const Options& options, BufferPool* pool, AcceptGate* gate) {
  PortOptions port_options;
  port_options.pool = pool;
  port_options.initial_accepts = options.initial_accepts;
  port_options.max_accepts = options.max_accepts;
  port_options.gate = gate;
  port_options.initial_reads = options.initial_reads;
  port_options.close_timeout = options.close_timeout;
  port_options.keepalive = options.keepalive;
  port_options.no_delay = options.no_delay;
  return port_options;
}

}  // namespace

Shard::Shard(const PortKind& kind, const Options& options, AcceptGate* gate, std::size_t index)
    : index_(index),
      buffers_(BufferPool::Create(options.buffer_size,
                                  static_cast<std::size_t>(options.max_free_buffers))),
      timer_queue_(TimerQueue::Create()),
      sessions_(
          SessionPool::Create(static_cast<std::size_t>(options.max_free_contexts), *timer_queue_)),
      port_(kind.create(ForPort(options, buffers_.get(), gate))),
      timers_(port_->Now()) {}

void Shard::Insert(Session& session) {
  const MutexLock lock(mutex_);
  session.next_in_shard = first_;
  session.previous_in_shard = &first_;
  if (first_ != nullptr) first_->previous_in_shard = &session.next_in_shard;
  first_ = &session;
  count_.fetch_add(1, std::memory_order_acq_rel);
}

void Shard::Remove(Session& session) {
  const MutexLock lock(mutex_);
  *session.previous_in_shard = session.next_in_shard;
  if (session.next_in_shard != nullptr) {
    session.next_in_shard->previous_in_shard = session.previous_in_shard;
  }
  session.next_in_shard = nullptr;
  session.previous_in_shard = nullptr;
  count_.fetch_sub(1, std::memory_order_acq_rel);
}

void Shard::Snapshot(std::vector<ConnectionPtr>& connections) {
  ForEach([&](Session& session) { connections.emplace_back(&session); });
}

void Shard::ArmTimer(Session& session, TimePoint deadline) {
  const MutexLock lock(timers_mutex_);
  timers_.Arm(session, deadline);
}

void Shard::DisarmTimer(Session& session) {
  const MutexLock lock(timers_mutex_);
  timers_.Disarm(session);
}

TimePoint Shard::NextTimer() {
  const MutexLock lock(timers_mutex_);
  return timers_.Next();
}

void Shard::WakeForTimer() {
  Owner* const worker = Owner::Current();
  if (worker == nullptr || &worker->port() != port_.get() || worker->shared()) Wake();
}

void Shard::Wake() {
  if (!woken_.exchange(true, std::memory_order_acq_rel)) port_->Post(wake_);
}

}  // namespace iocp
