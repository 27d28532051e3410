// Who may touch a session: its owner, a worker, for the rest of one turn.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "iocp/buffer.h"
#include "iocp/error.h"
#include "iocp/message.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "session/counters.h"
#include "session/hook_batch.h"
#include "stream/send_item.h"

namespace iocp {

class Session;

// Something that a session has received in this turn and its hooks have not seen yet.
struct Arrival {
  Arrival(Session* of, Buffer&& bytes, const Error& how_it_ended)
      : session(of), buffer(std::move(bytes)), end(how_it_ended) {}

  Session* session;
  Buffer buffer;
  Error end;  // kNone: there is data
};

// A worker as its sessions see it: what they need in a turn, and what they ask of it.
class Owner {
 public:
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  // The worker whose turn this thread is in; null outside of turns.
  static Owner* Current();
  // The memory of that worker for sends; null outside of turns.
  static SendMemory* CurrentSendMemory();

  // Makes this worker own the session until the end of this turn. When another worker owns it, that
  // one looks at it again before it lets go, and the answer is false. On this worker's thread.
  virtual bool Acquire(Session& session) = 0;
  // Makes this worker look at the session again when `deadline` has passed, or once it is late.
  virtual void ArmTimer(Session& session, TimePoint deadline) = 0;
  // Makes this worker call ContinueHandshake in one of its next turns. Throws std::bad_alloc.
  virtual void PostponeHandshake(Session& session) = 0;
  // The session's socket is closed: it takes no room in the server any more.
  virtual void Retire(Session& session) = 0;

  [[nodiscard]] CompletionPort& port() { return port_; }
  // True exactly when other workers may own sessions of the same port.
  [[nodiscard]] bool shared() const { return shared_; }
  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] Counters& counters() { return counters_; }
  [[nodiscard]] HookBatch& hooks() { return hooks_; }
  [[nodiscard]] SendMemory& send_memory() { return send_memory_; }
  // In the order of each stream.
  [[nodiscard]] std::vector<Arrival>& arrivals() { return arrivals_; }
  // Room for the messages of one call of a hook.
  [[nodiscard]] std::vector<Message>& messages() { return messages_; }
  // Takes one of the steps of handshakes that are left in this turn; false when none is left. A
  // step takes long, so a turn has only a few.
  bool TakeHandshakeStep() {
    if (handshake_steps_ == 0) return false;
    --handshake_steps_;
    return true;
  }
  // While a hook or callback of a connection runs: the buffer that is being delivered, and how many
  // of its bytes, and of those kept before it, no hook was given yet.
  struct Delivering {
    const Session* session = nullptr;
    const Buffer* buffer = nullptr;
    std::size_t rest = 0;
  };
  void set_delivering(const Delivering& what) { delivering_ = what; }
  [[nodiscard]] const Delivering& delivering() const { return delivering_; }
  // The index of its shard in the engine.
  [[nodiscard]] std::size_t shard_index() const { return shard_index_; }
  // The time of this turn; from its end on, the time after its hooks.
  [[nodiscard]] TimePoint now() const { return now_; }
  // The last look at the system began at this time or later.
  [[nodiscard]] TimePoint looked_at() const { return looked_at_; }
  // When what is still open is aborted; max: the server does not stop.
  [[nodiscard]] TimePoint stop_deadline() const { return stop_deadline_; }
  // Why the port has stopped working for good; kNone: it has not.
  [[nodiscard]] const Error& broken() const { return broken_; }

 protected:
  // For as long as this lives, `owner` is the thread's. A test may let another worker take a turn
  // inside a hook, on the same thread.
  class TurnScope {
   public:
    explicit TurnScope(Owner* owner);
    TurnScope(const TurnScope&) = delete;
    TurnScope& operator=(const TurnScope&) = delete;
    ~TurnScope();

   private:
    Owner* const before_;
  };

  // `shard_index`: the index of its shard in the engine.
  Owner(CompletionPort& port, std::size_t shard_index, const Options& options, Handler& handler,
        unsigned wanted_hooks);
  ~Owner() = default;

  TimePoint now_;
  TimePoint looked_at_;
  TimePoint stop_deadline_ = TimePoint::max();
  Error broken_;
  std::size_t handshake_steps_ = 0;  // that are left in this turn

 private:
  CompletionPort& port_;
  const std::size_t shard_index_;
  const bool shared_;
  const Options& options_;
  Counters counters_;
  HookBatch hooks_;
  SendMemory send_memory_;
  std::vector<Arrival> arrivals_;
  std::vector<Message> messages_;
  Delivering delivering_;
};

// The word by which workers agree on who owns a session. Each function is called by a worker.
class Ownership {
 public:
  [[nodiscard]] bool IsOf(const Owner& owner) const {
    return (word_.load(std::memory_order_relaxed) & ~kLookAgain) == Word(owner);
  }
  // False when another worker is the owner.
  bool Acquire(const Owner& owner) {
    std::uintptr_t nobody = 0;
    return word_.compare_exchange_strong(nobody, Word(owner), std::memory_order_acq_rel);
  }
  // Makes the owner look again before it lets go. False when there is none any more.
  bool Notify();
  // False when somebody wants the owner to look again: it stays the owner.
  bool Release(const Owner& owner);

  // The same where one worker alone ever owns the session.
  void AcquireAlone(const Owner& owner) { word_.store(Word(owner), std::memory_order_relaxed); }
  void ReleaseAlone() { word_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr std::uintptr_t kLookAgain = 1;
  static std::uintptr_t Word(const Owner& owner) {
    return reinterpret_cast<std::uintptr_t>(&owner);
  }

  // 0, or the owner's address, with kLookAgain when somebody wants it to look again.
  std::atomic<std::uintptr_t> word_{0};
};

}  // namespace iocp
