// The knowledge of what was scheduled, and the rules for when it may run: never early, never late,
// exactly once unless cancelled, in order, and not behind the end of its connection.
#pragma once

#include <iocp/iocp.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "network.h"

namespace iocp::sim {

class TimersOracle {
 public:
  // Schedules a callback: CallSoon, CallLater or CallEvery.
  using Schedules = std::function<TimerHandle(CallKind kind, Duration time, Callback callback)>;

  explicit TimersOracle(Network& network) : network_(network) {}

  // Schedules one by chance, of the connection `id`, or of the server when that is 0, whose work is
  // `run`. `ended`: the connection's closing hook has begun. `batches`: how many are open; lives as
  // long as this. Lets std::bad_alloc through.
  void Schedule(std::uint64_t id, bool ended, const int& batches, std::function<void()> run,
                const Schedules& schedule);
  // Cancels one of those that were scheduled, be it gone.
  void CancelOne();
  // The closing hook of a connection has begun.
  void OnEnded(std::uint64_t id);
  // No worker has anything to do at this moment. `stopping`: the server's may have ended.
  void CheckNoneIsLate(bool stopping);
  // True when every callback has been destroyed.
  [[nodiscard]] bool AllReturned() const { return living_ == 0; }
  void LetGo() { entries_.clear(); }

 private:
  struct Entry {
    std::uint64_t id;
    CallKind kind;
    Duration interval{};
    TimePoint deadline{};
    std::uint64_t number = 0;  // in the order in which they began to wait
    TimerHandle handle{};
    bool running = false;
    bool done = false;      // has run for the last time, was cancelled, or was never scheduled
    bool released = false;  // true exactly when its callback was destroyed
  };
  // The last one that ran, of one connection.
  struct Last {
    TimePoint deadline;
    std::uint64_t number = 0;
    std::uint64_t soon = 0;
  };
  class Token;

  void Run(Entry& entry, const std::function<void()>& work);
  void CheckOrder(const Entry& entry);
  void Check(bool holds, const char* what) { network_.Check(holds, what); }

  Network& network_;
  std::vector<std::unique_ptr<Entry>> entries_;
  std::map<std::uint64_t, Last> last_;
  std::uint64_t last_number_ = 0;
  std::size_t living_ = 0;     // callbacks
  bool ours_ = false;          // true exactly while a callback may be destroyed outside a batch
  std::size_t repeating_ = 0;  // scheduled with CallEvery
};

}  // namespace iocp::sim
