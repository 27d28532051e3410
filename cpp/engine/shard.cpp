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
      contexts_(ContextPool::Create(static_cast<std::size_t>(options.max_free_contexts))),
      port_(kind.create(ForPort(options, buffers_.get(), gate))),
      timers_(port_->Now()) {}

void Shard::Insert(Context& context) {
  const MutexLock lock(mutex_);
  context.next_in_shard = first_;
  context.previous_in_shard = &first_;
  if (first_ != nullptr) first_->previous_in_shard = &context.next_in_shard;
  first_ = &context;
  count_.fetch_add(1, std::memory_order_acq_rel);
}

void Shard::Remove(Context& context) {
  const MutexLock lock(mutex_);
  *context.previous_in_shard = context.next_in_shard;
  if (context.next_in_shard != nullptr) {
    context.next_in_shard->previous_in_shard = context.previous_in_shard;
  }
  context.next_in_shard = nullptr;
  context.previous_in_shard = nullptr;
  count_.fetch_sub(1, std::memory_order_acq_rel);
}

void Shard::Snapshot(std::vector<ConnectionPtr>& connections) {
  ForEach([&](Context& context) { connections.emplace_back(&context); });
}

void Shard::ArmTimer(Context& context, TimePoint deadline) {
  const MutexLock lock(timers_mutex_);
  timers_.Arm(context, deadline);
}

void Shard::DisarmTimer(Context& context) {
  const MutexLock lock(timers_mutex_);
  timers_.Disarm(context);
}

TimePoint Shard::NextTimer() {
  const MutexLock lock(timers_mutex_);
  return timers_.Next();
}

void Shard::Wake() {
  if (!woken_.exchange(true, std::memory_order_acq_rel)) port_->Post(wake_);
}

}  // namespace iocp
