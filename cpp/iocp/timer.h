// Functions that a connection or a server calls later.
#pragma once

#include <cstdint>
#include <functional>

namespace iocp {

class Timer;

// Must not be empty. It is destroyed as soon as it will not be called any more, with no lock held:
// by the worker that has called it, inside a batch; by the thread that has cancelled it; or by a
// worker, inside a batch, when its connection or its server ends.
using Callback = std::function<void()>;

// The function that a callback was given to.
enum class CallKind : std::uint8_t {
  kSoon,   // CallSoon
  kLater,  // CallLater
  kEvery,  // CallEvery
};

// A callback that was given to CallSoon, CallLater or CallEvery. Handles are copied freely, and may
// outlive the connection and the server. One that is destroyed cancels nothing.
class TimerHandle {
 public:
  // A dead handle, as of a connection that has ended.
  TimerHandle() = default;
  TimerHandle(const TimerHandle& other);
  TimerHandle(TimerHandle&& other) noexcept;
  TimerHandle& operator=(TimerHandle other) noexcept;
  ~TimerHandle();

  // Takes the callback back; any thread, any number of times. True when the callback will not run
  // again, and would have. False when it has run, was cancelled before, or has ended with its
  // connection or server. On the worker of its connection, so in each of the connection's hooks and
  // callbacks, the callback never runs after Cancel has returned. On another thread it may be
  // running at this moment, or be just about to; the answer is then false for a callback that runs
  // once, and true for one of CallEvery, which does not run again after that.
  bool Cancel() const;
  // True exactly when the callback will not run any more and has not just run to its end: it was
  // cancelled, or its connection or server has ended before.
  [[nodiscard]] bool cancelled() const;

 private:
  friend class TimerQueue;
  explicit TimerHandle(Timer* timer) : timer_(timer) {}

  Timer* timer_ = nullptr;  // one counted reference
};

}  // namespace iocp
