// A completion port, the connections that live on it, and what they share.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/timer_wheel.h"
#include "iocp/address.h"
#include "iocp/connection.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "session/session.h"
#include "session/session_pool.h"
#include "session/timer_queue.h"

namespace iocp {

// An accepted socket on its way to the shard that is to serve it.
struct HandedOff : Posting {
  static constexpr int kPostingTag = 2;

  HandedOff(NativeSocket accepted, const Address& address) : handle(accepted), listening(address) {
    tag = kPostingTag;
  }

  const NativeSocket handle;
  const Address& listening;  // its listener's
};

// Several workers may share one where the port allows it; elsewhere each worker has its own.
class Shard {
 public:
  // `index` is its place among the shards of its engine; `gate` is for its port.
  Shard(const PortKind& kind, const Options& options, AcceptGate* gate, std::size_t index);
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  [[nodiscard]] std::size_t index() const { return index_; }
  [[nodiscard]] CompletionPort& port() { return *port_; }
  [[nodiscard]] BufferPool& buffers() { return *buffers_; }
  [[nodiscard]] SessionPool& sessions() { return *sessions_; }

  // The list of connections, each with one reference. Any thread.
  void Insert(Session& session);
  void Remove(Session& session);
  void Snapshot(std::vector<ConnectionPtr>& connections);
  // Under the list's lock, which comes before any connection's.
  template <typename Visit>
  void ForEach(Visit visit) {
    const MutexLock lock(mutex_);
    for (Session* session = first_; session != nullptr; session = session->next_in_shard) {
      visit(*session);
    }
  }
  [[nodiscard]] std::size_t connection_count() const {
    return count_.load(std::memory_order_acquire);
  }

  // The callbacks that users have scheduled. Any thread.
  [[nodiscard]] TimerQueue& timer_queue() { return *timer_queue_; }
  // Makes a worker look when its next deadline is, unless the one in whose turn this thread is will
  // do so, and sleeps for all.
  void WakeForTimer();

  // The timers of sessions. Any worker of this shard.
  void ArmTimer(Session& session, TimePoint deadline);
  void DisarmTimer(Session& session);
  [[nodiscard]] TimePoint NextTimer();
  template <typename Expired>
  void AdvanceTimers(TimePoint now, Expired expired) {
    const MutexLock lock(timers_mutex_);
    timers_.Advance(now, [&](TimerNode& node) { expired(static_cast<Session&>(node)); });
  }

  // Wakes one worker, so that it looks at what no completion reports. Any thread.
  void Wake();
  // By the worker that got the posting of Wake, which has tag 0. A thread that finds the posting
  // under way posts nothing. The exchange makes this worker see what that thread has written
  // before.
  void WakeSeen() { woken_.exchange(false, std::memory_order_acq_rel); }

  // Sockets handed off to this shard that no worker has taken yet.
  std::atomic<std::size_t> handed_off{0};

 private:
  // A pool goes when the last of its objects has come back.
  struct ClosePool {
    template <typename Pool>
    void operator()(Pool* pool) const {
      pool->Close();
    }
  };

  struct DropQueue {
    void operator()(TimerQueue* queue) const { queue->DropReference(); }
  };

  const std::size_t index_;
  const std::unique_ptr<BufferPool, ClosePool> buffers_;
  const std::unique_ptr<TimerQueue, DropQueue> timer_queue_;
  const std::unique_ptr<SessionPool, ClosePool> sessions_;
  // The system's object goes before the memory that it may have known of (R10).
  const std::unique_ptr<CompletionPort> port_;

  Mutex mutex_;
  Session* first_ IOCP_GUARDED_BY(mutex_) = nullptr;
  std::atomic<std::size_t> count_{0};  // written under mutex_

  Mutex timers_mutex_;
  TimerWheel timers_ IOCP_GUARDED_BY(timers_mutex_);

  Posting wake_;
  std::atomic<bool> woken_{false};  // true exactly when wake_ is with the port
};

}  // namespace iocp
