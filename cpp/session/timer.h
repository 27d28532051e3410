// A callback that a user has scheduled.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "base/timer_wheel.h"
#include "iocp/time.h"
#include "iocp/timer.h"
#include "port/completion_port.h"
#include "session/timer_queue.h"

namespace iocp {

// Counted: by handles, and by its list as long as it is in one. The mutex of its queue guards all
// that changes, but for the callback of a timer that is running or has ended, which belongs to
// whoever has made it so.
class Timer : public TimerNode {
 public:
  enum class State : std::uint8_t {
    kWaiting,    // for its time, in the wheel; or not scheduled yet
    kReady,      // due
    kRunning,    // being called
    kDone,       // called for the last time
    kCancelled,  // not to be called any more
  };

  Timer(TimerQueue& owner, Session* of, CallKind what, Duration every, Callback&& call)
      : queue(owner), session(of), kind(what), interval(every), callback(std::move(call)) {
    queue.AddReference();
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void AddReference() { references_.fetch_add(1, std::memory_order_relaxed); }
  void DropReference() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  // Those of one connection are called in this order.
  [[nodiscard]] bool Before(const Timer& other) const {
    return deadline != other.deadline ? deadline < other.deadline : number < other.number;
  }

  TimerQueue& queue;
  Session* const session;  // alive until its list is closed; null: the server's
  const CallKind kind;
  std::atomic<State> state{State::kWaiting};  // written under the mutex, but for kDone
  const Duration interval;                    // zero: it is called once
  TimePoint deadline;
  std::uint64_t number = 0;  // of all timers of the queue, in the order of their Arm
  Timer* next = nullptr;     // in its list
  Timer** previous = nullptr;
  Callback callback;

 private:
  ~Timer() { queue.DropReference(); }

  std::atomic<std::uint32_t> references_{1};
};

}  // namespace iocp
