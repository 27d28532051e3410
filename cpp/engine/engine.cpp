#include "engine/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/heap.h"
#include "stage/tls/tls_stage.h"

namespace iocp {
namespace {

Options WithoutTls(Options options) {
  options.tls = {};
  return options;
}

}  // namespace

Engine::Engine(Handler& handler, const Options& options, const PortKind& kind, StageFactory stages)
    : handler_(handler),
      options_(WithoutTls(options)),
      wanted_hooks_(handler.WantedHooks()),
      kind_(kind),
      stages_(std::move(stages)),
      slots_(*this, options.max_connections) {
  KeepHeapWarm();
  AcceptGate* const gate = options.at_capacity == AtCapacity::kWait ? &slots_ : nullptr;
  for (int i = 0; i < options.workers; ++i) {
    if (shards_.empty() || !shards_.back()->port().shared()) {
      shards_.push_back(std::make_unique<Shard>(kind, options_, gate, shards_.size()));
    }
    workers_.push_back(std::make_unique<Worker>(*this, *shards_.back()));
    if (shards_.size() > 1) others_.fetch_add(1, std::memory_order_relaxed);
  }
  SetTls(options.tls);
}

Engine::~Engine() = default;

Status Engine::Listen(const ListenOptions& listen) {
  auto listener = std::make_unique<Listener>(*this, kind_);
  Status status = listener->Listen(listen);
  if (status.ok()) listeners_.push_back(std::move(listener));
  return status;
}

void Engine::SetTls(Tls tls) {
  // `tls` is the one before then. It ends when the lock is released, as its end may take long.
  const MutexLock lock(tls_mutex_);
  std::swap(tls_, tls);
  has_tls_.store(static_cast<bool>(tls_), std::memory_order_release);
}

bool Engine::MakeStages(const Shard& shard, TimePoint now, std::unique_ptr<StageStack>* stages) {
  const bool has_tls = has_tls_.load(std::memory_order_acquire);
  if (stages_ == nullptr && !has_tls) return true;
  try {
    std::vector<std::unique_ptr<Stage>> made;
    TimePoint ready_by = TimePoint::max();
    if (has_tls) {
      Tls tls;
      {
        const MutexLock lock(tls_mutex_);
        tls = tls_;
      }
      made.push_back(MakeTlsStage(tls, shard.index()));
      ready_by = now + HandshakeTimeout(tls);
    }
    if (stages_ != nullptr) {
      for (std::unique_ptr<Stage>& stage : stages_()) made.push_back(std::move(stage));
    }
    *stages = std::make_unique<StageStack>(std::move(made), ready_by);
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
  WakeAllShards();
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
    shard->sessions().counters().AddTo(stats);
    shard->ForEach([&](const Session& session) {
      stats.send_backlog += session.outbound().BacklogAtOneMoment();
    });
  }
  stats.connections = connection_count();
  return stats;
}

TimerHandle Engine::Schedule(CallKind kind, Duration delay, Duration interval,
                             Callback&& callback) {
  Shard& shard = *shards_.front();
  TimerQueue& queue = shard.timer_queue();
  TimerHandle handle = queue.Make(nullptr, kind, interval, std::move(callback));
  const TimerQueue::Scheduled scheduled =
      kind == CallKind::kSoon ? queue.AddReady(handle) : queue.Arm(handle, delay, shard.port());
  if (scheduled == TimerQueue::Scheduled::kNot) return {};
  if (scheduled == TimerQueue::Scheduled::kSooner) shard.WakeForTimer();
  return handle;
}

void Engine::OnTurn(Worker& worker) {
  for (const auto& listener : listeners_) listener->OnTurn(worker);
  if (!stopping()) accept_reports_.OnTurn(worker);
}

TimePoint Engine::NextTurn(const Shard& shard) const {
  TimePoint next = stopping() ? TimePoint::max() : accept_reports_.NextTurn();
  for (const auto& listener : listeners_) next = std::min(next, listener->NextTurn(shard));
  return next;
}

bool Engine::AcceptingHasEnded() const {
  return std::all_of(listeners_.begin(), listeners_.end(),
                     [](const auto& listener) { return listener->done(); });
}

Shard& Engine::LeastLoadedShard(Shard& preferred) {
  const auto load = [](const Shard& shard) {
    return shard.connection_count() + shard.handed_off.load(std::memory_order_relaxed);
  };
  Shard* best = &preferred;
  std::size_t fewest = load(preferred);
  for (const auto& shard : shards_) {
    const std::size_t connections = load(*shard);
    if (connections >= fewest) continue;
    best = shard.get();
    fewest = connections;
  }
  return *best;
}

void Engine::OnWorkerLeft(const Shard& shard) {
  if (shard.index() == 0) return;
  others_.fetch_sub(1, std::memory_order_acq_rel);
  shards_.front()->Wake();
}

void Engine::WakeAllShards() {
  for (const auto& shard : shards_) shard->Wake();
}

}  // namespace iocp
