// The policy of accepting: capacity, back-off, stopping. The port does the accepting itself.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "base/mutex.h"
#include "iocp/error.h"
#include "port/completion_port.h"

namespace iocp {

class Engine;
class Worker;

// Runs on the workers of the first shard; the mutex is for ports on which several workers wait.
class Acceptor {
 public:
  Acceptor(Engine& engine, NativeSocket listener);
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // Begins to accept. Once.
  void Begin(CompletionPort& port);
  void OnCompletion(Worker& worker, Completion& completion);
  // Once in each turn: retries and reports what is due, uses room that has come, stops when the
  // server does.
  void OnTurn(Worker& worker);
  // When OnTurn has something to do at the latest.
  [[nodiscard]] TimePoint NextTurn() const {
    return std::min(retry_at_.load(std::memory_order_relaxed),
                    report_at_.load(std::memory_order_relaxed));
  }
  // A connection has gone. Any worker.
  void OnRoom();
  // True exactly when the listener is closed and nothing will be handed to a shard any more.
  [[nodiscard]] bool done() const { return done_.load(std::memory_order_acquire); }

 private:
  static constexpr std::chrono::milliseconds kFirstBackOff{100};
  static constexpr std::chrono::milliseconds kLastBackOff{1000};
  static constexpr std::chrono::minutes kWarnAgain{1};

  void OnExhaustion(Worker& worker, const Error& error) IOCP_REQUIRES(mutex_);
  void Take(Worker& worker, NativeSocket handle) IOCP_REQUIRES(mutex_);
  void Place(Worker& worker, NativeSocket handle) IOCP_REQUIRES(mutex_);
  static void Refuse(Worker& worker, NativeSocket handle);
  void ReportRefused(Worker& worker) IOCP_REQUIRES(mutex_);
  void UpdatePause(Worker& worker) IOCP_REQUIRES(mutex_);

  Engine& engine_;
  Socket listener_;
  Mutex mutex_;
  // Accepted while there was no room, for AtCapacity::kWait: one or a few, as the port accepts one
  // at a time (R8). Memory for them is there from the beginning.
  std::vector<NativeSocket> waiting_ IOCP_GUARDED_BY(mutex_);
  // 0: the last accept did not fail for want of anything.
  std::chrono::milliseconds back_off_ IOCP_GUARDED_BY(mutex_){0};
  // When a shortage is worth a warning again.
  TimePoint warn_at_ IOCP_GUARDED_BY(mutex_) = TimePoint::min();
  std::atomic<TimePoint> retry_at_{TimePoint::max()};  // max: not backing off
  // Refused since the operator last heard of it.
  std::uint64_t unreported_ IOCP_GUARDED_BY(mutex_) = 0;
  // When the operator may hear of it again.
  TimePoint next_report_ IOCP_GUARDED_BY(mutex_) = TimePoint::min();
  std::atomic<TimePoint> report_at_{TimePoint::max()};  // max: none is unreported
  // True exactly when accepting is paused until there is room: the server is full, or somebody
  // waits.
  std::atomic<bool> full_{false};
  // True exactly when the port was told to stop accepting.
  bool cancelled_ IOCP_GUARDED_BY(mutex_) = false;
  std::atomic<bool> done_{false};
};

}  // namespace iocp
