// A worker: takes completions from its port, calls the hooks they ask for, starts what follows.
#pragma once

#include <atomic>
#include <deque>
#include <new>
#include <string>
#include <vector>

#include "base/fifo.h"
#include "engine/shard.h"
#include "iocp/error.h"
#include "port/completion_port.h"
#include "session/owner.h"
#include "session/session.h"

namespace iocp {

class Engine;

// Its life is a series of turns. In each it
//   1. takes a batch of completions and applies each to its session           (Dispatch)
//   2. calls all hooks that are due, in one batch                             (RunHooks)
//   3. lets every session that it owns start what follows: sends, pauses,
//      timers, closing                                                        (Submit)
// It owns a session that it touches until the end of the turn, so hooks of one connection never
// overlap; a completion that comes to another worker meanwhile is left with the owner.
class Worker final : public Owner {
 public:
  Worker(Engine& engine, Shard& shard);
  ~Worker() = default;

  // On the worker's thread, before the first turn.
  Error Open();
  // One turn. False when the worker may leave: the server stops, and its part of it has ended.
  bool Turn();
  // Turns until it may leave.
  void Run();
  // When the next turn is due if nothing completes before; for tests that drive workers by hand.
  [[nodiscard]] TimePoint Deadline();

  bool Acquire(Session& session) override;
  void ArmTimer(Session& session, TimePoint deadline) override;
  void PostponeHandshake(Session& session) override;
  void Retire(Session& session) override;

  // Takes an accepted socket, for which a slot is taken, as a connection of this shard. `listening`
  // is where its listener is bound.
  void Adopt(NativeSocket handle, const Address& listening);
  // Reports something to the operator with the next hooks: the text that `compose` returns. Without
  // memory for it nothing is reported; what it is about is counted.
  template <typename Compose>
  void Warn(Compose compose) {
    try {
      warnings_.push_back(compose());
    } catch (const std::bad_alloc&) {
    }
  }

  [[nodiscard]] Engine& engine() { return engine_; }
  [[nodiscard]] Shard& shard() { return shard_; }

 private:
  static constexpr TimePoint kAwake = TimePoint::min();

  // The most steps of handshakes in one turn. Others wait, so that those who are connected do not.
  static constexpr std::size_t kHandshakeSteps = 4;

  [[nodiscard]] TimePoint NextDeadline();
  void ContinueHandshakes();
  void HandOverWatch();
  void Dispatch(Completion& completion);
  void OnPosting(Posting& posting);
  void OnBroken(const Error& error);
  void StopConnections();
  bool RunServerTimers();
  void RunHooks();
  void Submit();
  void AcquireAlone(Session& session);
  bool Release(Session& session);
  bool MayLeave();

  Engine& engine_;
  Shard& shard_;
  std::vector<Completion> batch_;
  std::vector<std::string> warnings_;
  Fifo<Session, &Session::next_active> active_;  // owned by this worker, as they were touched
  std::deque<ConnectionPtr> handshakes_;         // that wait for their turn
  // Until when it sleeps, at most. For the others that share its port, where there are any.
  std::atomic<TimePoint> asleep_until_{kAwake};
  bool stop_seen_ = false;      // true exactly when it has asked its connections to close
  bool stop_enforced_ = false;  // true exactly when it has marked them all due, their time being up
};

}  // namespace iocp
