#include "engine/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/heap.h"

namespace iocp {

Engine::Engine(Handler& handler, const Options& options, const PortKind& kind,
               NativeSocket listener, const Address& listening, StageFactory stages)
    : handler_(handler),
      options_(options),
      wanted_hooks_(handler.WantedHooks()),
      backend_(kind.name),
      stages_(std::move(stages)),
      acceptor_(*this, listener) {
  KeepHeapWarm();
  for (int i = 0; i < options.workers; ++i) {
    if (shards_.empty() || !shards_.back()->port().shared()) {
      shards_.push_back(std::make_unique<Shard>(kind, options_, listening));
    }
    workers_.push_back(std::make_unique<Worker>(*this, *shards_.back()));
  }
}

Engine::~Engine() = default;

void Engine::BeginAccepting() { acceptor_.Begin(shards_.front()->port()); }

bool Engine::MakeStages(std::unique_ptr<StageStack>* stages) const {
  if (stages_ == nullptr) return true;
  try {
    *stages = std::make_unique<StageStack>(stages_());
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void Engine::RequestStop(TimePoint deadline) {
  TimePoint before = stop_deadline_.load(std::memory_order_relaxed);
  while (deadline < before &&
         !stop_deadline_.compare_exchange_weak(before, deadline, std::memory_order_acq_rel)) {
  }
  stopping_.store(true, std::memory_order_release);
  CallAllShards();
}

void Engine::Snapshot(std::vector<ConnectionPtr>& connections) const {
  for (const auto& shard : shards_) shard->Snapshot(connections);
  std::erase_if(connections, [](const ConnectionPtr& connection) {
    return !Session::Of(*connection).established();
  });
}

std::size_t Engine::connection_count() const {
  std::size_t count = 0;
  for (const auto& shard : shards_) count += shard->connection_count();
  return count;
}

Stats Engine::stats() const {
  Stats stats;
  for (const auto& worker : workers_) worker->counters().AddTo(stats);
  for (const auto& shard : shards_) {
    const BufferPool& buffers = shard->buffers();
    const auto posted = static_cast<std::uint64_t>(std::max(buffers.posted(), 0));
    const std::uint64_t out = buffers.in_use();
    stats.buffers_in_use += out > posted ? out - posted : 0;
    stats.free_buffers += buffers.free() + posted;
    stats.free_contexts += shard->sessions().free();
    stats.pending_accepts += static_cast<std::uint64_t>(shard->port().pending_accepts());
  }
  stats.connections = connection_count();
  return stats;
}

Shard& Engine::LeastLoadedShard() {
  const auto load = [](const std::unique_ptr<Shard>& shard) {
    return shard->connection_count() + shard->newcomers.load(std::memory_order_relaxed);
  };
  return **std::min_element(
      shards_.begin(), shards_.end(),
      [&](const auto& left, const auto& right) { return load(left) < load(right); });
}

bool Engine::TakeSlot() {
  int taken = slots_taken_.load(std::memory_order_relaxed);
  do {
    if (taken >= options_.max_connections) return false;
  } while (!slots_taken_.compare_exchange_weak(taken, taken + 1, std::memory_order_acq_rel));
  return true;
}

void Engine::ReleaseSlot() {
  slots_taken_.fetch_sub(1, std::memory_order_seq_cst);
  acceptor_.OnRoom();
}

bool Engine::full() const {
  return slots_taken_.load(std::memory_order_seq_cst) >= options_.max_connections;
}

void Engine::CallAllShards() {
  for (const auto& shard : shards_) shard->Call();
}

}  // namespace iocp
