// The hooks that one worker calls in a row.
#pragma once

#include <chrono>
#include <exception>

#include "iocp/close_reason.h"
#include "iocp/connection.h"
#include "iocp/handler.h"
#include "iocp/timer.h"
#include "session/counters.h"

namespace iocp {

// Brackets hooks with OnBatchBegin and OnBatchEnd, so that a language with a lock of its own takes
// it once for all of them. A batch without a wanted hook takes nothing. On its worker's thread.
class HookBatch {
 public:
  HookBatch(Handler& handler, unsigned wanted, Counters& counters)
      : handler_(handler), wanted_(wanted), counters_(counters) {}
  HookBatch(const HookBatch&) = delete;
  HookBatch& operator=(const HookBatch&) = delete;

  [[nodiscard]] bool wants(Hook hook) const { return (wanted_ & hook) != 0; }

  // Does nothing inside a batch, and outside one respectively.
  void Enter() {
    if (!inside_) Begin();
  }
  void Leave();

  // For calls that are no hooks of a connection; inside a batch.
  Handler& handler() { return handler_; }

  // `call(handler)` when the hook is wanted. An exception that leaves it goes to OnHookError.
  template <typename Call>
  void Run(Connection& connection, Hook hook, Call call) {
    if (!wants(hook)) return;
    Enter();
    counters_.hook_calls.Add(1);
    try {
      call(handler_);
    } catch (...) {
      Fail(connection, hook, std::current_exception());
    }
  }

  // A callback of `connection`, or of the server when that is null. An exception that leaves it
  // goes to OnCallbackError.
  void RunCallback(Connection* connection, CallKind kind, const Callback& callback);

 private:
  void Begin();
  void Fail(Connection& connection, Hook hook, const std::exception_ptr& error);

  Handler& handler_;
  const unsigned wanted_;
  Counters& counters_;
  bool inside_ = false;  // true exactly between OnBatchBegin and OnBatchEnd
  std::chrono::steady_clock::time_point began_;
};

}  // namespace iocp
