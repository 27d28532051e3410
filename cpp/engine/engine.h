// One run of a server, from Start to the last worker's leave: what the workers share.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "engine/acceptor.h"
#include "engine/shard.h"
#include "engine/worker.h"
#include "iocp/address.h"
#include "iocp/connection.h"
#include "iocp/handler.h"
#include "iocp/options.h"
#include "iocp/stats.h"
#include "stage/stage.h"
#include "stage/stage_stack.h"

namespace iocp {

// Makes the stages of one connection, the one next to the wire first. Called by workers, and may
// throw std::bad_alloc. A null function: connections have none.
using StageFactory = std::function<std::vector<std::unique_ptr<Stage>>()>;

// Makes no threads: Server does that, one for each worker; a test may step the workers itself.
class Engine {
 public:
  // Takes over `listener`. `options` were validated.
  Engine(Handler& handler, const Options& options, const PortKind& kind, NativeSocket listener,
         const Address& listening, StageFactory stages = nullptr);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine();

  [[nodiscard]] std::size_t worker_count() const { return workers_.size(); }
  [[nodiscard]] Worker& worker(std::size_t index) { return *workers_[index]; }

  // Once every worker is open, on the thread of one that waits on the first port.
  void BeginAccepting();

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

  // --- For the workers and the acceptor.
  [[nodiscard]] Handler& handler() { return handler_; }
  // False when there is no memory for them. Null stages: the connection has none.
  bool MakeStages(std::unique_ptr<StageStack>* stages) const;
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] unsigned wanted_hooks() const { return wanted_hooks_; }
  [[nodiscard]] Acceptor& acceptor() { return acceptor_; }
  [[nodiscard]] bool IsAcceptorShard(const Shard& shard) const {
    return &shard == shards_.front().get();
  }
  [[nodiscard]] Shard& LeastLoadedShard();
  // Connections, those on their way to a shard included, against max_connections.
  bool TakeSlot();
  void ReleaseSlot();
  [[nodiscard]] bool full() const;
  void CallAcceptor() { shards_.front()->Call(); }
  void CallAllShards();
  [[nodiscard]] const char* backend() const { return backend_; }
  // True for the first port of this run that breaks.
  [[nodiscard]] bool FirstToBreak() { return !port_broken_.exchange(true); }

 private:
  Handler& handler_;
  const Options options_;
  const unsigned wanted_hooks_;
  const char* const backend_;
  const StageFactory stages_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Acceptor acceptor_;
  std::atomic<int> slots_taken_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> port_broken_{false};  // true exactly when a worker got kBroken
  std::atomic<TimePoint> stop_deadline_{TimePoint::max()};
};

}  // namespace iocp
