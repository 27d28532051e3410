#include "session/timer_queue.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "session/hook_batch.h"
#include "session/session.h"
#include "session/timer.h"

namespace iocp {
namespace {

TimePoint After(TimePoint time, Duration delay) {
  if (delay <= Duration::zero()) return time;
  return delay > TimePoint::max() - time ? TimePoint::max() : time + delay;
}

// From the timers of its list that wait.
void Unlink(Timer& timer) {
  *timer.previous = timer.next;
  if (timer.next != nullptr) timer.next->previous = timer.previous;
  timer.next = nullptr;
}

Timer* Merged(Timer* a, Timer* b) {
  Timer* first = nullptr;
  Timer** end = &first;
  while (a != nullptr && b != nullptr) {
    Timer*& earlier = b->Before(*a) ? b : a;
    *end = earlier;
    end = &earlier->next;
    earlier = earlier->next;
  }
  *end = a != nullptr ? a : b;
  return first;
}

// Needs no memory: there may be none.
Timer* Sorted(Timer* first) {
  if (first == nullptr || first->next == nullptr) return first;
  Timer* middle = first;
  for (Timer* end = first->next; end != nullptr && end->next != nullptr; end = end->next->next) {
    middle = middle->next;
  }
  Timer* const second = std::exchange(middle->next, nullptr);
  return Merged(Sorted(first), Sorted(second));
}

}  // namespace

// ---- Handles.

TimerHandle::TimerHandle(const TimerHandle& other) : timer_(other.timer_) {
  if (timer_ != nullptr) timer_->AddReference();
}
TimerHandle::TimerHandle(TimerHandle&& other) noexcept
    : timer_(std::exchange(other.timer_, nullptr)) {}
TimerHandle& TimerHandle::operator=(TimerHandle other) noexcept {
  std::swap(timer_, other.timer_);
  return *this;
}
TimerHandle::~TimerHandle() {
  if (timer_ != nullptr) timer_->DropReference();
}

bool TimerHandle::Cancel() const { return timer_ != nullptr && timer_->queue.Cancel(*timer_); }
bool TimerHandle::cancelled() const {
  return timer_ == nullptr ||
         timer_->state.load(std::memory_order_acquire) == Timer::State::kCancelled;
}

// ---- Any thread.

void TimerQueue::DropReference() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

TimerHandle TimerQueue::Make(Session* session, CallKind kind, Duration interval,
                             Callback&& callback) {
  return TimerHandle(new Timer(*this, session, kind, interval, std::move(callback)));
}

TimerQueue::Scheduled TimerQueue::AddReady(const TimerHandle& handle) {
  Timer& timer = *handle.timer_;
  const MutexLock lock(mutex_);
  if (Closed(timer)) return Scheduled::kNot;
  timer.AddReference();
  PushReady(timer);
  return Scheduled::kSooner;
}

TimerQueue::Scheduled TimerQueue::Arm(const TimerHandle& handle, Duration delay,
                                      const CompletionPort& port) {
  Timer& timer = *handle.timer_;
  const MutexLock lock(mutex_);
  if (Closed(timer)) return Scheduled::kNot;
  // Read here: whatever the wheel has let go had its deadline before, so they keep their order.
  const TimePoint now = port.Now();
  // The wheel stands still while it is empty.
  if (empty()) wheel_.Advance(now, [](TimerNode&) {});
  timer.AddReference();
  return Wait(timer, After(now, delay)) ? Scheduled::kSooner : Scheduled::kLater;
}

bool TimerQueue::Cancel(Timer& timer) {
  Callback unused;  // destroyed behind the lock
  {
    const MutexLock lock(mutex_);
    switch (timer.state.load(std::memory_order_relaxed)) {
      case Timer::State::kWaiting:
        StopWaiting(timer);
        break;
      case Timer::State::kReady:
        // It stays in the list, which a worker is about to go through.
        timer.state.store(Timer::State::kCancelled, std::memory_order_release);
        unused.swap(timer.callback);
        return true;
      case Timer::State::kRunning:
        if (timer.interval == Duration::zero()) return false;
        timer.state.store(Timer::State::kCancelled, std::memory_order_release);
        return true;
      case Timer::State::kDone:
      case Timer::State::kCancelled:
        return false;
    }
    timer.state.store(Timer::State::kCancelled, std::memory_order_release);
    unused.swap(timer.callback);
  }
  timer.DropReference();  // its list's; the handle has another one
  return true;
}

// ---- Lists.

Session* TimerQueue::SessionOf(const Timer& timer) { return timer.session; }

TimerList& TimerQueue::ListOf(const Timer& timer) {
  return timer.session != nullptr ? timer.session->timers() : server_;
}

bool TimerQueue::Closed(const Timer& timer) const {
  return timer.session == nullptr && server_closed_;
}

bool TimerQueue::Wait(Timer& timer, TimePoint deadline) {
  const TimePoint before = wheel_.Next();
  TimerList& list = ListOf(timer);
  timer.state.store(Timer::State::kWaiting, std::memory_order_release);
  timer.deadline = deadline;
  timer.number = ++last_number_;
  timer.next = list.waiting_;
  timer.previous = &list.waiting_;
  if (timer.next != nullptr) timer.next->previous = &timer.next;
  list.waiting_ = &timer;
  count_.fetch_add(1, std::memory_order_relaxed);
  wheel_.Arm(timer, deadline);
  return wheel_.Next() < before;
}

void TimerQueue::StopWaiting(Timer& timer) {
  wheel_.Disarm(timer);
  Unlink(timer);
  count_.fetch_sub(1, std::memory_order_relaxed);
}

void TimerQueue::PushReady(Timer& timer) {
  TimerList& list = ListOf(timer);
  timer.state.store(Timer::State::kReady, std::memory_order_release);
  Timer* const last = list.ready_.load(std::memory_order_relaxed);
  if (last == nullptr) {
    timer.next = &timer;
  } else {
    timer.next = std::exchange(last->next, &timer);
  }
  list.ready_.store(&timer, std::memory_order_release);
  count_.fetch_add(1, std::memory_order_relaxed);
}

Timer* TimerQueue::PopReady(TimerList& list) {
  Timer* const last = list.ready_.load(std::memory_order_relaxed);
  if (last == nullptr) return nullptr;
  Timer* const first = last->next;
  if (first == last) {
    list.ready_.store(nullptr, std::memory_order_release);
  } else {
    last->next = first->next;
  }
  first->next = nullptr;
  count_.fetch_sub(1, std::memory_order_relaxed);
  return first;
}

Timer* TimerQueue::TakeAll(TimerList& list) {
  Timer* all = nullptr;
  const auto take = [&](Timer& timer) {
    timer.state.store(Timer::State::kCancelled, std::memory_order_release);
    timer.next = all;
    all = &timer;
  };
  while (Timer* const timer = list.waiting_) {
    StopWaiting(*timer);
    take(*timer);
  }
  while (Timer* const timer = PopReady(list)) take(*timer);
  return all;
}

// ---- Workers.

TimePoint TimerQueue::Next() {
  if (empty()) return TimePoint::max();
  const MutexLock lock(mutex_);
  if (server_.ready() && !server_running_) return TimePoint::min();
  return std::max(wheel_.Next(), rest_until_);
}

Timer* TimerQueue::TakeDue(TimePoint now) {
  constexpr std::chrono::microseconds kRestForEach{500};
  Timer* due = nullptr;
  Duration rest{};
  wheel_.Advance(now, [&](TimerNode& node) {
    auto& timer = static_cast<Timer&>(node);
    Unlink(timer);
    timer.next = std::exchange(due, &timer);
    count_.fetch_sub(1, std::memory_order_relaxed);
    rest = std::min<Duration>(rest + kRestForEach, kMostRest);
  });
  if (due != nullptr) rest_until_ = now + rest;
  return Sorted(due);
}

Timer* TimerQueue::MakeReady(Timer& timer) {
  Timer* const behind = timer.next;
  PushReady(timer);
  return behind;
}

bool TimerQueue::Run(TimerList& list, HookBatch& hooks, Connection* connection,
                     const CompletionPort& port) {
  const Timer* const last = list.ready_.load(std::memory_order_acquire);
  bool sooner = false;
  for (bool more = last != nullptr; more;) {
    // Before the next one is taken: whoever this waits for may cancel it.
    hooks.Enter();
    Timer* timer = nullptr;
    bool due = false;
    {
      const MutexLock lock(mutex_);
      timer = PopReady(list);
      if (timer == nullptr) return sooner;  // the server's list was closed meanwhile
      due = timer->state.load(std::memory_order_relaxed) == Timer::State::kReady;
      if (due) timer->state.store(Timer::State::kRunning, std::memory_order_release);
    }
    more = timer != last;
    if (due) {
      sooner = Call(*timer, hooks, connection, port) || sooner;
    } else {
      timer->DropReference();
    }
  }
  return sooner;
}

bool TimerQueue::Call(Timer& timer, HookBatch& hooks, Connection* connection,
                      const CompletionPort& port) {
  hooks.RunCallback(connection, timer.kind, timer.callback);
  bool sooner = false;
  if (timer.interval != Duration::zero()) {
    if (WaitAgain(timer, port.Now(), &sooner)) return sooner;
  } else {
    timer.state.store(Timer::State::kDone, std::memory_order_release);
  }
  timer.callback = nullptr;
  timer.DropReference();
  return false;
}

// From deadline to deadline, so that it does not drift. Those that were missed are left out.
bool TimerQueue::WaitAgain(Timer& timer, TimePoint now, bool* sooner) {
  const MutexLock lock(mutex_);
  if (timer.state.load(std::memory_order_relaxed) != Timer::State::kRunning) return false;
  if (Closed(timer)) {
    timer.state.store(Timer::State::kCancelled, std::memory_order_release);
    return false;
  }
  const auto missed = (now - timer.deadline) / timer.interval;
  *sooner = Wait(timer, After(timer.deadline + timer.interval * missed, timer.interval));
  return true;
}

void TimerQueue::Close(TimerList& list, HookBatch& hooks) {
  if (empty()) return;
  Timer* timers = nullptr;
  {
    const MutexLock lock(mutex_);
    timers = TakeAll(list);
  }
  Release(timers, hooks);
}

void TimerQueue::Release(Timer* timers, HookBatch& hooks) {
  if (timers != nullptr) hooks.Enter();
  while (timers != nullptr) {
    Timer& timer = *std::exchange(timers, timers->next);
    timer.callback = nullptr;
    timer.DropReference();
  }
}

// ---- The server's.

bool TimerQueue::BeginServer() {
  const MutexLock lock(mutex_);
  return server_.ready() && !std::exchange(server_running_, true);
}

bool TimerQueue::EndServer() {
  const MutexLock lock(mutex_);
  server_running_ = false;
  return server_.ready();
}

void TimerQueue::CloseServer(HookBatch& hooks) {
  Timer* timers = nullptr;
  {
    const MutexLock lock(mutex_);
    server_closed_ = true;
    timers = TakeAll(server_);
  }
  Release(timers, hooks);
}

}  // namespace iocp
