// One run of a server, from Start to the last worker's leave: what the workers share.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "engine/accept_reports.h"
#include "engine/listener.h"
#include "engine/shard.h"
#include "engine/slots.h"
#include "engine/worker.h"
#include "iocp/address.h"
#include "iocp/connection.h"
#include "iocp/handler.h"
#include "iocp/options.h"
#include "iocp/stats.h"
#include "iocp/time.h"
#include "iocp/timer.h"
#include "iocp/tls.h"
#include "stage/stage.h"
#include "stage/stage_stack.h"

namespace iocp {

// Makes the stages of one connection, the one next to the wire first. Called by workers, and may
// throw std::bad_alloc. A null function: connections have none.
using StageFactory = std::function<std::vector<std::unique_ptr<Stage>>()>;

// Makes no threads: Server does that, one for each worker; a test may step the workers itself.
class Engine {
 public:
  // `options` were validated.
  Engine(Handler& handler, const Options& options, const PortKind& kind,
         StageFactory stages = nullptr);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine();

  [[nodiscard]] std::size_t worker_count() const { return workers_.size(); }
  [[nodiscard]] Worker& worker(std::size_t index) { return *workers_[index]; }

  // Makes a listener, on which every worker accepts. Any number of times, before the first turn of
  // any worker. On failure nothing is left behind.
  Status Listen(const ListenOptions& listen);
  [[nodiscard]] const std::vector<std::unique_ptr<Listener>>& listeners() const {
    return listeners_;
  }

  // Gives new connections `tls`: none, or a server's that is ready by PrepareTls when the next one
  // is accepted. Any thread.
  void SetTls(Tls tls);

  // Any thread, any number of times; the earliest deadline counts. Connections are closed
  // gracefully until `deadline`, aborted then.
  void RequestStop(TimePoint deadline);
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_acquire); }
  [[nodiscard]] TimePoint stop_deadline() const {
    return stop_deadline_.load(std::memory_order_acquire);
  }

  // Any thread.
  [[nodiscard]] TimePoint Now() const { return shards_.front()->port().Now(); }
  void Snapshot(std::vector<ConnectionPtr>& connections) const;
  [[nodiscard]] std::size_t connection_count() const;
  [[nodiscard]] Stats stats() const;

  // A dead handle once the workers of the first shard, which call it, have left. Throws
  // std::bad_alloc.
  TimerHandle Schedule(CallKind kind, Duration delay, Duration interval, Callback&& callback);

  // --- For the workers and the listeners.
  [[nodiscard]] Handler& handler() { return handler_; }
  // For a connection of that shard. False when there is no memory for them. Null stages: the
  // connection has none.
  bool MakeStages(const Shard& shard, TimePoint now, std::unique_ptr<StageStack>* stages);
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] unsigned wanted_hooks() const { return wanted_hooks_; }
  [[nodiscard]] std::size_t shard_count() const { return shards_.size(); }
  [[nodiscard]] Slots& slots() { return slots_; }
  [[nodiscard]] AcceptReports& accept_reports() { return accept_reports_; }
  // Once in each turn of each worker: what there is to do about accepting.
  void OnTurn(Worker& worker);
  // When OnTurn has something to do for a worker of that shard at the latest.
  [[nodiscard]] TimePoint NextTurn(const Shard& shard) const;
  // True exactly when no listener will hand anything to a shard any more.
  [[nodiscard]] bool AcceptingHasEnded() const;
  // The shard with the fewest connections; `preferred` where no other has fewer.
  [[nodiscard]] Shard& LeastLoadedShard(Shard& preferred);
  // A connection has gone. Any worker.
  void OnSlotFreed() { slots_.Release(); }
  void WakeAllShards();
  // By a worker that leaves. Those of the first shard leave last: callbacks of the server run until
  // all connections have ended.
  void OnWorkerLeft(const Shard& shard);
  [[nodiscard]] bool OtherShardsHaveLeft() const {
    return others_.load(std::memory_order_acquire) == 0;
  }
  [[nodiscard]] const char* backend() const { return kind_.name; }
  // True for the first port of this run that breaks.
  [[nodiscard]] bool FirstToBreak() { return !port_broken_.exchange(true); }

 private:
  Handler& handler_;
  const Options options_;  // without `tls`, which SetTls may change
  const unsigned wanted_hooks_;
  const PortKind& kind_;
  const StageFactory stages_;
  Mutex tls_mutex_;
  Tls tls_ IOCP_GUARDED_BY(tls_mutex_);
  std::atomic<bool> has_tls_{false};  // true exactly when tls_ is not none
  Slots slots_;
  AcceptReports accept_reports_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::atomic<std::size_t> others_{0};  // workers of all shards but the first that have not left
  std::atomic<bool> stopping_{false};
  std::atomic<bool> port_broken_{false};  // true exactly when a worker got kBroken
  std::atomic<TimePoint> stop_deadline_{TimePoint::max()};
};

}  // namespace iocp
