// A worker: takes completions from its port, calls the hooks they ask for, starts what follows.
#pragma once

#include <array>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "base/counter.h"
#include "engine/connection.h"
#include "engine/shard.h"
#include "iocp/buffer.h"
#include "iocp/close_reason.h"
#include "iocp/error.h"
#include "iocp/server.h"
#include "iocp/stats.h"
#include "port/completion_port.h"

namespace iocp {

class Engine;

// What one worker has counted. On cache lines of its own: it is written all the time.
struct alignas(64) Counters {
  Counter accepted, refused, accept_errors, established;
  std::array<Counter, kCloseReasons> closed;
  Counter reads, writes, bytes_received, bytes_sent;
  Counter hook_calls, hook_errors, hook_batches, batch_wait_nanoseconds, hook_nanoseconds;

  void AddTo(Stats& stats) const;
};

// Its life is a series of turns. In each it
//   1. takes a batch of completions and applies each to its connection        (Dispatch)
//   2. calls all hooks that are due, in one batch                             (RunHooks)
//   3. starts what follows for every connection it touched: sends, pauses,
//      timers, closing                                                        (Submit)
// A connection that it touches it holds until the end of the turn, so hooks of one connection never
// overlap; a completion that comes to another worker meanwhile is left with the holder.
class Worker {
 public:
  Worker(Engine& engine, Shard& shard);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // On the worker's thread, before the first turn.
  Error Open();
  // One turn. False when the worker may leave: the server stops, and its part of it has ended.
  bool Turn();
  // Turns until it may leave.
  void Run();
  // When the next turn is due if nothing completes before; for who steps the workers.
  [[nodiscard]] TimePoint Deadline();

  // The worker whose turn this thread is in; null outside.
  static Worker* Current();
  // That worker's, for what is sent in its hooks; null outside.
  static SendMemory* CurrentSendMemory();

  // Makes this worker look at the connection in this turn. When another worker holds it, that one
  // is made to look again, and the answer is false. On the worker's thread.
  bool Activate(Context& context);
  // False when another worker should take it, as the hook that asks may be waiting for just that.
  [[nodiscard]] bool MayTakeInHook(const Context& context) const {
    return !shared_ || Holds(context);
  }
  // Takes an accepted socket, for which a slot is taken, as a connection of this shard. `listening`
  // is where its listener is bound.
  void Adopt(NativeSocket handle, const Address& listening);
  // For the operator, with the next hooks: the text that `compose` returns. Without memory for it
  // there is none; what it is about is counted.
  template <typename Compose>
  void Warn(Compose compose) {
    try {
      warnings_.push_back(compose());
    } catch (const std::bad_alloc&) {
    }
  }

  [[nodiscard]] Engine& engine() { return engine_; }
  [[nodiscard]] Shard& shard() { return shard_; }
  [[nodiscard]] Counters& counters() { return counters_; }
  // The time as of this turn.
  [[nodiscard]] TimePoint now() const { return now_; }

 private:
  struct Arrival {
    Context* context;
    Buffer buffer;
    Error end;  // kNone: there is data
  };

  // worker.cpp: turns and completions.
  [[nodiscard]] TimePoint NextDeadline();
  void HandOverWatch();
  bool Hold(Context& context);
  [[nodiscard]] bool Holds(const Context& context) const;
  void Dispatch(Completion& completion);
  void OnPosting(Posting& posting);
  void OnBroken(const Error& error);
  void Apply(Context& context, Completion& completion);
  void ApplyReceive(Context& context, Completion& completion);
  void LeaveWithHolder(Context& context, Completion& completion);
  static void CountReceives(Context& context, std::uint64_t came, std::uint64_t expected);
  void ApplySend(Context& context, std::size_t bytes, const Error& error);
  static bool Settled(const Context& context);
  void StopConnections();
  bool MayLeave();

  // hooks.cpp: what is delivered, and how.
  void RunHooks();
  void DeliverArrival(Arrival& arrival);
  void DeliverPending(Context& context);
  void DeliverCompletedSends(Context& context);
  void DeliverHeld(Context& context);
  void TellEstablished(Context& context);
  void TellRead(Context& context, Buffer& buffer);
  void TellClosed(Context& context);
  void EnterBatch();
  void LeaveBatch();
  template <typename Call>
  void CallHook(Context& context, Hook hook, Call call);
  bool Blocked(Context& context) const;

  // progress.cpp: what follows.
  void Submit();
  bool Progress(Context& context);
  bool Release(Context& context);
  void TakeRequests(Context& context);
  void ActOnEnd(Context& context);
  void StopSends(Context& context);
  void BeginFlush(Context& context, CloseReason reason);
  void BeginCancel(Context& context);
  void Fail(Context& context, Error error);
  void RunOutOfMemory(Context& context, Error error = {ErrorKind::kOutOfResources, 0});
  void Flush(Context& context);
  void AdvanceClose(Context& context);
  void Join(Context& context);
  void DropSends(Context& context);
  void CompleteSends(Context& context, SendQueue& ended);
  void UpdateReading(Context& context);
  void UpdateTimer(Context& context);
  void CheckDeadlines(Context& context);
  [[nodiscard]] TimePoint EarliestDeadline(const Context& context) const;
  bool TakesBytes(Context& context);
  void TimeOut(Context& context, CloseReason reason);

  static constexpr TimePoint kAwake = TimePoint::min();

  Engine& engine_;
  Shard& shard_;
  const bool shared_;
  Counters counters_;
  TimePoint now_;
  TimePoint looked_at_;  // the last Wait began then or later
  std::vector<Completion> batch_;
  std::vector<Arrival> arrivals_;  // received in this turn, in order for each connection
  std::vector<std::string> warnings_;
  SendMemory send_memory_;
  Context* first_active_ = nullptr;  // held by this worker, in the order in which it was touched
  Context* last_active_ = nullptr;
  // Until when it sleeps, at most. For the others that share its port, where there are any.
  std::atomic<TimePoint> asleep_until_{kAwake};
  bool in_batch_ = false;  // true exactly between OnBatchBegin and OnBatchEnd
  TimePoint batch_began_;
  bool stop_seen_ = false;      // true exactly when its connections were told to close
  bool stop_enforced_ = false;  // true exactly when they were told that the time is up
};

}  // namespace iocp
