// One connection, from accept to its last reference: Context, what Connection is inside.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/counter.h"
#include "base/mutex.h"
#include "base/timer_wheel.h"
#include "iocp/address.h"
#include "iocp/buffer.h"
#include "iocp/close_reason.h"
#include "iocp/connection.h"
#include "iocp/error.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "stream/reorder_queue.h"
#include "stream/send_queue.h"

namespace iocp {

class ContextPool;
class Shard;
class Worker;

// How far a connection is. It only ever moves down this list, and may skip.
enum class Phase : std::uint8_t {
  kOpen,
  kFailing,     // a send failed: what the peer had sent before is still delivered
  kFlushing,    // no new sends; what is queued goes out
  kLingering,   // our stream has ended; waiting for the end of the peer's
  kCancelling,  // waiting for the last completion of everything in flight
  kClosed,      // the socket is closed; error and closing hooks are due
  kFinished,    // the hooks have run: a dead handle
};

// Three kinds of state. Any thread may touch the atomics, and under `mutex` what the mutex guards.
// All the rest belongs to the worker that holds the connection, one at a time: see
// Worker::Activate.
//
// Lives as long as it is referenced: by its shard until the closing hook has run, which is after
// the last completion; by ConnectionPtrs; by hooks through the shard's reference.
class Context final : public Connection, public Socket, public TimerNode, public Posting {
 public:
  static constexpr int kPostingTag = 1;
  // In the mailbox. From then on only what the port had in hand follows.
  static constexpr std::size_t kMostMail = 8;

  explicit Context(ContextPool* pool) : pool_(pool) { tag = kPostingTag; }
  ~Context() = default;

  static Context& Of(Connection& connection) { return static_cast<Context&>(connection); }

  // Becomes a connection of `shard`. Once, by the worker that adopted its socket.
  void Start(Shard& shard_of, const Options& limits, unsigned wanted_hooks, TimePoint now,
             const Address& local, const Address& remote);

  // Public functions of Connection, any thread. Enqueue takes the item only when it is accepted.
  SendResult Enqueue(SendItem* item);
  void RequestClose(CloseReason why);
  void RequestAbort(CloseReason why);
  void SetUserPause(bool paused);

  // --- Any thread.
  mutable std::atomic<std::uint32_t> references{1};
  std::atomic<bool> open{true};  // true exactly when sends are accepted; written under `mutex`
  std::atomic<bool> paused_by_user{false};  // true exactly from PauseReading to ResumeReading
  // True exactly when somebody asked for it, the server that stops included; written under `mutex`.
  // From then on nothing is delivered.
  std::atomic<bool> close_requested{false};
  std::atomic<bool> abort_requested{false};
  // Accepted sends: all of them, written under `mutex`, and those that have ended, written by the
  // holder. A send that is dropped has ended like one that went out.
  Counter queued_bytes, queued_sends, queued_charge;
  Counter ended_bytes, ended_sends, ended_charge;
  Counter received_bytes, sent_bytes;  // written by the holder
  // Bytes accepted and neither with the system yet nor dropped. What has ended is read first: then
  // it cannot be more than was queued. Exact for the holder, and under `mutex`.
  [[nodiscard]] std::size_t backlog() const {
    const std::uint64_t ended = ended_bytes.value();
    return static_cast<std::size_t>(queued_bytes.value() - ended);
  }
  // What the backlog takes in memory: its bytes and the overhead of each send that has not ended.
  // The limit and the marks are judged by this.
  [[nodiscard]] std::size_t charge() const {
    const std::uint64_t ended = ended_charge.value();
    return static_cast<std::size_t>(queued_charge.value() - ended);
  }
  [[nodiscard]] std::uint64_t pending_sends() const {
    const std::uint64_t ended = ended_sends.value();
    return queued_sends.value() - ended;
  }
  std::atomic<bool> established{false};  // true exactly when OnConnectionEstablished was due
  // Who holds the connection: 0, or a Worker* whose lowest bit is set when somebody else wants its
  // holder to look at it again.
  std::atomic<std::uintptr_t> holder{0};

  // --- Under `mutex`. No hook runs and no other lock is taken while it is held.
  Mutex mutex;
  SendQueue incoming IOCP_GUARDED_BY(mutex);  // accepted, not seen by the holder yet
  // Completions that came to a worker that does not hold it.
  std::vector<Completion> mailbox IOCP_GUARDED_BY(mutex);
  // True exactly when the port was told to pause as the mailbox was full, and the holder has not
  // looked since.
  bool mailbox_paused IOCP_GUARDED_BY(mutex) = false;
  // Of those for which there was no memory: what was received is lost, what was sent is not.
  struct Unkept {
    std::uint64_t receives = 0;
    std::uint64_t receives_expected = 0;  // 0: the last one is not among them
    bool send = false;                    // true exactly when the send has ended, so:
    std::size_t sent = 0;
    Error send_error;
  } unkept IOCP_GUARDED_BY(mutex);
  // True exactly when there is something of these that the holder has to take: sends in `incoming`,
  // completions, kept or not, a close or an abort. Written under `mutex`; the holder asks
  // without.
  std::atomic<bool> requested{false};
  // Of what was asked for first, a close or an abort.
  CloseReason requested_reason IOCP_GUARDED_BY(mutex) = CloseReason::kLocalClose;
  bool posted IOCP_GUARDED_BY(mutex) = false;  // true exactly when this Posting is with the port
  // True exactly when its shard, and so its port, may be gone.
  bool finished IOCP_GUARDED_BY(mutex) = false;

  // --- The holder's.
  Phase phase = Phase::kOpen;
  CloseReason reason = CloseReason::kPeerClosed;
  Error error;                     // for OnConnectionError; kNone: not called
  bool receive_in_flight = false;  // true exactly when Receive has begun and not ended
  bool send_in_flight = false;     // true exactly when Send was called and has not completed
  bool end_received = false;       // true exactly when the peer's stream has ended, in order
  bool port_paused = false;        // true exactly when the port was last told to pause, as far as
                                   // the holder knows: see mailbox_paused
  bool over_high_water = false;    // true exactly from above the high mark to the low mark
  bool reset_on_close = false;     // true exactly when the peer is to get a reset
  // True exactly when the peer has had its time to take what was sent: a deadline of that has
  // passed, or the receive has failed.
  bool cut_short = false;
  Error end_error;  // how the stream ended; kEndOfStream or worse
  SendQueue sending;
  SendQueue complete;  // out or dropped; OnWriteCompleted, or only their release, is due
  ReorderQueue reorder;
  std::uint64_t receives_came = 0;      // completions of the receive, in whatever order
  std::uint64_t receives_expected = 0;  // 0: the last one has not come yet
  std::vector<Buffer> held;             // received while the connection was paused
  TimePoint accepted_at;
  TimePoint active_at;  // when bytes last moved, in or out
  // Of the send in flight; or when its peer was last seen to take bytes.
  TimePoint send_began_at;
  // What the peer had acknowledged at the last look that found more to acknowledge.
  static constexpr std::uint64_t kNotLookedAt = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t acknowledged = kNotLookedAt;
  TimePoint close_deadline;  // from kFailing on
  // What its timer is armed for. max: it was not, or it has gone off and that has been looked at.
  // The wheel knows better, but belongs to all workers of the shard.
  TimePoint timer_deadline = TimePoint::max();
  // True exactly when its timer has gone off, or the server's time is up, and its deadlines have
  // not been looked at since. Atomic, as it is set before the connection is held.
  std::atomic<bool> deadline_due{false};
  Context* next_active = nullptr;  // in the holder's list

  // --- Under the shard's mutex.
  Context* next_in_shard = nullptr;
  Context** previous_in_shard = nullptr;

  // --- Constant from Adopt until finished.
  Shard* shard = nullptr;
  const Options* options = nullptr;
  bool reports_writes = false;  // true exactly when OnWriteCompleted is wanted

 private:
  friend class Connection;
  friend class ContextPool;

  bool PackInto(SendQueue& queue, const SendItem& item) IOCP_REQUIRES(mutex);
  // Makes the worker that holds the connection, or is going to, look at it; returns it when it is
  // this thread's, so that what the holder owns may be touched. Under `mutex`.
  Worker* CallWorker() IOCP_REQUIRES(mutex);

  ContextPool* const pool_;
  Context* next_free_ = nullptr;
};

// Connection objects, kept for reuse up to a cap. Thread-safe; like BufferPool it goes with the
// last of Close and the last object's return.
class ContextPool {
 public:
  static ContextPool* Create(std::size_t max_free) { return new ContextPool(max_free); }
  void Close();

  // One reference, the caller's. Null when there is no memory.
  Context* Take() noexcept;
  void Return(Context* context) noexcept;

  [[nodiscard]] std::size_t free() const { return free_count_.load(std::memory_order_relaxed); }

 private:
  explicit ContextPool(std::size_t max_free) : max_free_(max_free) {}
  ~ContextPool() = default;

  const std::size_t max_free_;
  Mutex mutex_;
  Context* free_list_ IOCP_GUARDED_BY(mutex_) = nullptr;
  std::atomic<std::size_t> free_count_{0};
  std::size_t in_use_ IOCP_GUARDED_BY(mutex_) = 0;
  bool closed_ IOCP_GUARDED_BY(mutex_) = false;  // true exactly when Close was called
};

}  // namespace iocp
