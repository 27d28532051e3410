// The callbacks that users have scheduled, by the shard that calls them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/mutex.h"
#include "base/timer_wheel.h"
#include "iocp/time.h"
#include "iocp/timer.h"
#include "port/completion_port.h"

namespace iocp {

class Connection;
class HookBatch;
class Session;

// The timers of one connection, or of the server. Their queue's mutex guards it.
class TimerList {
 public:
  // True exactly when the list of those that are due is not empty. Any thread.
  [[nodiscard]] bool ready() const { return ready_.load(std::memory_order_acquire) != nullptr; }

 private:
  friend class TimerQueue;

  Timer* waiting_ = nullptr;  // those in the wheel, in no order
  // The last of those that are due, which leads to the first. Cancelled ones are among them.
  std::atomic<Timer*> ready_{nullptr};
};

// The timers of a shard: those of its connections and, in the first shard, those of the server.
// Thread-safe. The mutex is held for a few steps, or for a few for each timer that has come due or
// ends with its list. It is the last in every order of locks, and no callback is called or
// destroyed under it. Counted: handles use it after its shard has gone.
class TimerQueue {
 public:
  // How late a timer may be because of the wheel, and how much later when many go off: a worker
  // that slept for each tick would spend more on its turns than on the timers.
  static constexpr std::chrono::milliseconds kTick{1};
  static constexpr std::chrono::milliseconds kMostRest{4};

  static TimerQueue* Create() { return new TimerQueue; }
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;
  void AddReference() { references_.fetch_add(1, std::memory_order_relaxed); }
  void DropReference();

  // --- Any thread.

  // A timer that is not scheduled yet; of the server when `session` is null. `interval` is zero but
  // for CallEvery. Throws std::bad_alloc.
  TimerHandle Make(Session* session, CallKind kind, Duration interval, Callback&& callback);
  enum class Scheduled : std::uint8_t {
    kNot,     // the server's list is closed
    kLater,   // other timers of the queue come before it
    kSooner,  // workers that sleep have to be woken
  };
  // Schedules it, once. Its session must not have finished, which the lock of the inbox ensures.
  // AddReady: at once, behind what is due already. Arm: in `delay`, from the time that it reads
  // under its lock.
  Scheduled AddReady(const TimerHandle& handle);
  Scheduled Arm(const TimerHandle& handle, Duration delay, const CompletionPort& port);
  // True exactly when no timer is scheduled. A thread sees its own, and those of whoever woke it.
  [[nodiscard]] bool empty() const { return count_.load(std::memory_order_relaxed) == 0; }

  // --- Workers of the shard.

  // When there is something to do at the latest; max: nothing. Past, while a timer of the server is
  // due and nobody is at it.
  [[nodiscard]] TimePoint Next();
  // Makes the timers due whose time has come, in the order of their deadlines. Calls
  // `look(session)` for each of a connection, under the mutex.
  template <typename Look>
  void Advance(TimePoint now, Look look) {
    if (empty()) return;
    const MutexLock lock(mutex_);
    for (Timer* timer = TakeDue(now); timer != nullptr;) {
      Session* const session = SessionOf(*timer);
      timer = MakeReady(*timer);
      if (session != nullptr) look(*session);
    }
  }
  // Calls those of `list` that are due by now, and not those that they add. By the session's owner;
  // for the server's list, by who has begun. True when one of them waits again, and no other timer
  // of the queue has been as near.
  bool Run(TimerList& list, HookBatch& hooks, Connection* connection, const CompletionPort& port);
  // Cancels all timers of a list, for good.
  void Close(TimerList& list, HookBatch& hooks);

  // The server's list. One worker at a time calls its timers.
  [[nodiscard]] TimerList& server() { return server_; }
  bool BeginServer();
  // True when more are due by now.
  bool EndServer();
  void CloseServer(HookBatch& hooks);

 private:
  friend class TimerHandle;
  friend class Timer;

  TimerQueue() = default;
  ~TimerQueue() = default;

  bool Cancel(Timer& timer);
  static Session* SessionOf(const Timer& timer);
  [[nodiscard]] TimerList& ListOf(const Timer& timer);
  [[nodiscard]] bool Closed(const Timer& timer) const IOCP_REQUIRES(mutex_);
  // True when no other has been as near.
  bool Wait(Timer& timer, TimePoint deadline) IOCP_REQUIRES(mutex_);
  void StopWaiting(Timer& timer) IOCP_REQUIRES(mutex_);
  // Linked to each other; the first leads.
  Timer* TakeDue(TimePoint now) IOCP_REQUIRES(mutex_);
  // Returns the one behind it.
  Timer* MakeReady(Timer& timer) IOCP_REQUIRES(mutex_);
  void PushReady(Timer& timer) IOCP_REQUIRES(mutex_);
  Timer* PopReady(TimerList& list) IOCP_REQUIRES(mutex_);
  // Cancelled, and linked to each other.
  Timer* TakeAll(TimerList& list) IOCP_REQUIRES(mutex_);
  static void Release(Timer* timers, HookBatch& hooks);
  bool Call(Timer& timer, HookBatch& hooks, Connection* connection, const CompletionPort& port);
  bool WaitAgain(Timer& timer, TimePoint now, bool* sooner);

  std::atomic<std::size_t> references_{1};
  std::atomic<std::size_t> count_{0};  // timers in lists; written under mutex_
  Mutex mutex_;
  TimerWheel wheel_ IOCP_GUARDED_BY(mutex_){TimePoint(), kTick};
  TimePoint rest_until_ IOCP_GUARDED_BY(mutex_);  // nobody need look at the wheel before
  std::uint64_t last_number_ IOCP_GUARDED_BY(mutex_) = 0;
  TimerList server_;
  bool server_running_ IOCP_GUARDED_BY(mutex_) = false;  // true exactly while a worker calls them
  bool server_closed_ IOCP_GUARDED_BY(mutex_) = false;   // true exactly after CloseServer
};

}  // namespace iocp
