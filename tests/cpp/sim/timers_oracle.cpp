#include "timers_oracle.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "memory.h"
#include "session/timer_queue.h"

namespace iocp::sim {

using std::chrono::milliseconds;

// Inside a callback: watches when that is destroyed.
class TimersOracle::Token {
 public:
  Token(TimersOracle& oracle, Entry& entry, const int& batches)
      : oracle_(oracle), entry_(entry), batches_(batches) {
    ++oracle_.living_;
  }
  Token(const Token&) = delete;
  Token& operator=(const Token&) = delete;
  ~Token() {
    const FailingMemory::Scope unarmed(false);
    --oracle_.living_;
    entry_.released = true;
    oracle_.Check(oracle_.ours_ || batches_ > 0, "a callback is destroyed outside a batch");
    oracle_.Check(!entry_.running, "a callback is destroyed while it runs");
  }

 private:
  TimersOracle& oracle_;
  Entry& entry_;
  const int& batches_;
};

void TimersOracle::Schedule(std::uint64_t id, bool ended, const int& batches,
                            std::function<void()> run, const Schedules& schedule) {
  Choices& choices = network_.choices;
  CallKind kind = choices.OneOf({CallKind::kSoon, CallKind::kLater, CallKind::kEvery});
  // They would keep the workers turning for as long as the run lasts.
  constexpr std::size_t kMostRepeating = 8;
  if (kind == CallKind::kEvery && ++repeating_ > kMostRepeating) kind = CallKind::kLater;
  Duration time = std::chrono::microseconds(choices.Size(20'000'000)) - milliseconds(1);
  if (kind == CallKind::kEvery) time += milliseconds(100);
  entries_.push_back(std::make_unique<Entry>(Entry{id, kind}));
  Entry& entry = *entries_.back();
  if (kind == CallKind::kEvery) entry.interval = time;
  entry.deadline = network_.now() + (kind == CallKind::kSoon ? Duration() : std::max(time, {}));
  entry.number = ++last_number_;
  network_.Note("schedule", id != 0, static_cast<std::uint64_t>(kind));
  ours_ = true;
  try {
    Callback callback = [this, &entry, run = std::move(run),
                         token = std::make_shared<Token>(*this, entry, batches)] {
      const FailingMemory::Scope unarmed(false);
      Run(entry, run);
    };
    const FailingMemory::Scope armed(true);
    entry.handle = schedule(kind, time, std::move(callback));
  } catch (const std::bad_alloc&) {
    ours_ = false;
    entry.done = true;
    Check(entry.released, "a callback for which there was no memory is kept");
    throw;
  }
  ours_ = false;
  entry.done = entry.handle.cancelled();
  Check(entry.done == entry.released, "a callback that was not scheduled is kept");
  Check(!ended || entry.done, "scheduled on a connection that has ended");
}

void TimersOracle::Run(Entry& entry, const std::function<void()>& work) {
  Check(!entry.done, "a callback runs that was cancelled, or had run");
  Check(!entry.running, "a callback overlaps itself");
  Check(network_.now() >= entry.deadline, "a timer is early");
  CheckOrder(entry);
  entry.running = true;
  const struct End {
    TimersOracle& oracle;
    Entry& entry;
    ~End() {
      entry.running = false;
      if (entry.interval == Duration()) entry.done = true;
      if (entry.done) return;
      const TimePoint now = oracle.network_.now();
      while (entry.deadline <= now) entry.deadline += entry.interval;
      entry.number = ++oracle.last_number_;
    }
  } end{*this, entry};
  work();
}

void TimersOracle::CheckOrder(const Entry& entry) {
  Last& last = last_[entry.id];
  if (entry.kind == CallKind::kSoon) {
    Check(entry.number > last.soon, "callbacks are not called in the order of the calls");
    last.soon = entry.number;
    return;
  }
  Check(entry.deadline > last.deadline ||
            (entry.deadline == last.deadline && entry.number > last.number),
        "timers do not go off in the order of their deadlines");
  last.deadline = entry.deadline;
  last.number = entry.number;
}

void TimersOracle::CancelOne() {
  if (entries_.empty()) return;
  Entry& entry = *entries_[network_.choices.Below(entries_.size())];
  const bool gone = entry.done || entry.handle.cancelled();
  const bool expected = !gone && (!entry.running || entry.interval != Duration());
  network_.Note("cancel", entry.id != 0, expected ? 1 : 0);
  ours_ = true;
  const bool cancelled = entry.handle.Cancel();
  ours_ = false;
  Check(cancelled == expected, "a wrong answer of Cancel");
  if (!cancelled) return;
  entry.done = true;
  Check(entry.handle.cancelled(), "cancelled, and the handle does not know it");
  Check(entry.released || entry.running, "a callback that was cancelled is kept");
}

void TimersOracle::OnEnded(std::uint64_t id) {
  for (const auto& entry : entries_) {
    if (entry->id != id) continue;
    Check(entry->released, "a callback is kept behind the end of its connection");
    if (entry->done) continue;
    Check(entry->kind != CallKind::kSoon, "a callback of CallSoon has not run");
    Check(entry->handle.cancelled(), "ended, and the handle does not know it");
    entry->done = true;
  }
}

void TimersOracle::CheckNoneIsLate(bool stopping) {
  for (const auto& entry : entries_) {
    if (entry->done) continue;
    if (entry->handle.cancelled()) {
      Check(entry->id == 0 && stopping, "a timer is gone that nobody has cancelled");
      entry->done = true;
      continue;
    }
    Check(entry->kind != CallKind::kSoon, "a callback is due, and no worker knows it");
    Check(network_.now() <= entry->deadline + TimerQueue::kTick + TimerQueue::kMostRest,
          "a timer is late");
  }
}

}  // namespace iocp::sim
