// The worker's second step: all hooks that are due, in one batch.
#include <exception>
#include <new>
#include <utility>

#include "engine/engine.h"
#include "engine/worker.h"

namespace iocp {
namespace {

// Data is delivered until somebody closes, aborts or the stream breaks.
bool Deliverable(const Context& context) {
  return context.phase <= Phase::kFailing &&
         !context.close_requested.load(std::memory_order_acquire) &&
         !context.abort_requested.load(std::memory_order_acquire);
}

std::uint64_t Nanoseconds(Duration duration) {
  return static_cast<std::uint64_t>(duration.count());
}

}  // namespace

void Worker::RunHooks() {
  for (Arrival& arrival : arrivals_) DeliverArrival(arrival);
  arrivals_.clear();
  // Hooks may send to other connections, which joins them to this list.
  for (Context* context = first_active_; context != nullptr; context = context->next_active) {
    DeliverPending(*context);
  }
  for (const std::string& warning : std::exchange(warnings_, {})) {
    EnterBatch();
    engine_.handler().OnWarning(warning);
  }
  LeaveBatch();
}

void Worker::EnterBatch() {
  if (in_batch_) return;
  const TimePoint asked = std::chrono::steady_clock::now();
  engine_.handler().OnBatchBegin();
  in_batch_ = true;
  batch_began_ = std::chrono::steady_clock::now();
  counters_.hook_batches.Add(1);
  counters_.batch_wait_nanoseconds.Add(Nanoseconds(batch_began_ - asked));
}

void Worker::LeaveBatch() {
  if (!in_batch_) return;
  const TimePoint ended = std::chrono::steady_clock::now();
  counters_.hook_nanoseconds.Add(Nanoseconds(ended - batch_began_));
  in_batch_ = false;
  engine_.handler().OnBatchEnd();
}

template <typename Call>
void Worker::CallHook(Context& context, Hook hook, Call call) {
  if ((engine_.wanted_hooks() & hook) == 0) return;
  EnterBatch();
  counters_.hook_calls.Add(1);
  try {
    call(engine_.handler());
  } catch (...) {
    counters_.hook_errors.Add(1);
    try {
      engine_.handler().OnHookError(context, hook, std::current_exception());
    } catch (...) {
      context.Abort(CloseReason::kHookError);
    }
  }
}

bool Worker::Blocked(Context& context) const {
  if (engine_.options().flow_control) {
    const std::size_t charge = context.charge();
    if (charge > engine_.options().write_high_water) {
      context.over_high_water = true;
    } else if (charge <= engine_.options().write_low_water) {
      context.over_high_water = false;
    }
  }
  return context.over_high_water || context.paused_by_user.load(std::memory_order_acquire);
}

void Worker::DeliverArrival(Arrival& arrival) {
  Context& context = *arrival.context;
  if (context.end_received) return;  // reads behind the one that met the end
  if (arrival.end) {
    // It waits behind the data that is held; Progress acts on it.
    context.end_received = true;
    context.end_error = arrival.end;
    return;
  }
  counters_.reads.Add(1);
  counters_.bytes_received.Add(arrival.buffer.size());
  context.received_bytes.Add(arrival.buffer.size());
  if (!Deliverable(context)) return;
  TellEstablished(context);
  if (!context.held.empty() || Blocked(context)) {
    try {
      context.held.push_back(BufferPool::Compact(std::move(arrival.buffer)));
    } catch (const std::bad_alloc&) {
      RunOutOfMemory(context);
    }
    return;
  }
  TellRead(context, arrival.buffer);
  // Gone before the next hook runs: unless the hook kept it, the block can be used again.
  arrival.buffer = Buffer();
}

void Worker::DeliverPending(Context& context) {
  if (context.phase == Phase::kFinished) return;
  if (engine_.options().established_on == EstablishedOn::kConnect) TellEstablished(context);
  DeliverCompletedSends(context);
  DeliverHeld(context);
  if (context.phase == Phase::kClosed) TellClosed(context);
}

void Worker::DeliverCompletedSends(Context& context) {
  while (SendItem* item = context.complete.Pop()) {
    if (!item->dropped) {
      CallHook(context, kHookWrite,
               [&](Handler& handler) { handler.OnWriteCompleted(context, item->size); });
    }
    if (item->release_in_batch) EnterBatch();
    SendItem::Destroy(item, &send_memory_);
  }
}

void Worker::DeliverHeld(Context& context) {
  if (context.held.empty()) return;
  std::size_t delivered = 0;
  while (delivered < context.held.size() && Deliverable(context) && !Blocked(context)) {
    TellRead(context, context.held[delivered++]);
  }
  if (!Deliverable(context)) delivered = context.held.size();
  context.held.erase(context.held.begin(),
                     context.held.begin() + static_cast<std::ptrdiff_t>(delivered));
  // A pause is rare; an idle connection should not carry its traces.
  if (context.held.empty()) context.held.shrink_to_fit();
}

void Worker::TellEstablished(Context& context) {
  if (context.established.load(std::memory_order_relaxed)) return;
  context.established.store(true, std::memory_order_release);
  counters_.established.Add(1);
  CallHook(context, kHookEstablished,
           [&](Handler& handler) { handler.OnConnectionEstablished(context); });
}

void Worker::TellRead(Context& context, Buffer& buffer) {
  if ((engine_.wanted_hooks() & kHookRead) == 0) return;
  // Looked at once the batch has begun: whoever it had to wait for may have closed the connection.
  EnterBatch();
  if (!Deliverable(context)) return;
  CallHook(context, kHookRead, [&](Handler& handler) { handler.OnReadCompleted(context, buffer); });
}

void Worker::TellClosed(Context& context) {
  context.phase = Phase::kFinished;
  if (context.established.load(std::memory_order_relaxed)) {
    if (context.error) {
      CallHook(context, kHookError,
               [&](Handler& handler) { handler.OnConnectionError(context, context.error); });
    }
    counters_.closed[static_cast<std::size_t>(context.reason)].Add(1);
    CallHook(context, kHookClosing,
             [&](Handler& handler) { handler.OnConnectionClosing(context, context.reason); });
  }
  if (context.user_data != nullptr) {
    EnterBatch();
    engine_.handler().OnConnectionReleased(context);
  }
}

}  // namespace iocp
