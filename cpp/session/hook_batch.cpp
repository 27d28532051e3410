#include "session/hook_batch.h"

#include <chrono>
#include <cstdint>

namespace iocp {
namespace {

std::uint64_t Nanoseconds(std::chrono::steady_clock::duration duration) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

}  // namespace

void HookBatch::Begin() {
  const auto asked = std::chrono::steady_clock::now();
  handler_.OnBatchBegin();
  inside_ = true;
  began_ = std::chrono::steady_clock::now();
  counters_.hook_batches.Add(1);
  counters_.batch_wait_nanoseconds.Add(Nanoseconds(began_ - asked));
}

void HookBatch::Leave() {
  if (!inside_) return;
  counters_.hook_nanoseconds.Add(Nanoseconds(std::chrono::steady_clock::now() - began_));
  inside_ = false;
  handler_.OnBatchEnd();
}

void HookBatch::RunCallback(Connection* connection, CallKind kind, const Callback& callback) {
  Enter();
  counters_.hook_calls.Add(1);
  try {
    callback();
  } catch (...) {
    counters_.hook_errors.Add(1);
    try {
      handler_.OnCallbackError(connection, kind, std::current_exception());
    } catch (...) {
      if (connection != nullptr) connection->Abort(CloseReason::kHookError);
    }
  }
}

void HookBatch::Fail(Connection& connection, Hook hook, const std::exception_ptr& error) {
  counters_.hook_errors.Add(1);
  try {
    handler_.OnHookError(connection, hook, error);
  } catch (...) {
    connection.Abort(CloseReason::kHookError);
  }
}

}  // namespace iocp
