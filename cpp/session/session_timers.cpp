// The callbacks of a session's user.
#include <utility>

#include "session/session.h"
#include "session/session_pool.h"
#include "session/timer_queue.h"

namespace iocp {

TimerHandle Session::Schedule(CallKind kind, Duration delay, Duration interval,
                              Callback&& callback) {
  TimerQueue& queue = pool_->timers();
  // Before the lock, and destroyed after it where the session has ended.
  TimerHandle timer = queue.Make(this, kind, interval, std::move(callback));
  const MutexLock lock(inbox_.mutex());
  if (inbox_.finished()) return {};
  if (kind == CallKind::kSoon) {
    queue.AddReady(timer);
    Wake();
  } else if (queue.Arm(timer, delay, *port_) == TimerQueue::Scheduled::kSooner) {
    WakeForTimer();
  }
  return timer;
}

// Makes a worker of the port look when its next deadline is, unless the one in whose turn this
// thread is will do so, and sleeps for all.
void Session::WakeForTimer() {
  Owner* const worker = Owner::Current();
  if (worker != nullptr && &worker->port() == port_ && !worker->shared()) return;
  if (inbox_.BeginPosting()) port_->Post(*this);
}

// Before each hook: what is due comes before whatever was received behind it.
void Session::RunTimers(Owner& owner) {
  const bool sooner = pool_->timers().Run(timers_, owner.hooks(), this, owner.port());
  if (!sooner || !owner.shared()) return;
  const MutexLock lock(inbox_.mutex());
  if (!inbox_.finished()) WakeForTimer();
}

void Session::CloseTimers(Owner& owner) { pool_->timers().Close(timers_, owner.hooks()); }

}  // namespace iocp
