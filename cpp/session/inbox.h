// The inbox of a session: requests and completions that other threads leave for its owner.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/mutex.h"
#include "iocp/close_reason.h"
#include "iocp/error.h"
#include "port/completion_port.h"
#include "stream/send_queue.h"

namespace iocp {

// The count of completions for which there was no memory. Received bytes are lost with them; the
// result of the send is kept.
struct LostMail {
  std::uint64_t receives = 0;
  std::uint64_t receives_expected = 0;  // 0: the last one is not among them
  bool send = false;                    // true exactly when the send is among them, so:
  std::size_t sent = 0;
  Error send_error;
};

// Any thread may call any function. No hook runs, and no other lock but that of the shard's
// timers is taken, while the mutex is held.
class Inbox {
 public:
  // Completions that may wait. At the last of them the port is asked to pause, and only what it
  // had in hand follows.
  static constexpr std::size_t kMostMail = 8;

  [[nodiscard]] Mutex& mutex() const IOCP_RETURN_CAPABILITY(mutex_) { return mutex_; }

  // True exactly when sends are accepted.
  [[nodiscard]] bool open() const { return open_.load(std::memory_order_acquire); }
  // True exactly when a user, or the server that stops, has asked to close or to abort. Nothing is
  // delivered from then on.
  [[nodiscard]] bool close_requested() const {
    return close_requested_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool abort_requested() const {
    return abort_requested_.load(std::memory_order_acquire);
  }
  // True exactly from PauseReading to ResumeReading.
  [[nodiscard]] bool user_paused() const { return user_paused_.load(std::memory_order_acquire); }
  // False when it was so already.
  bool SetUserPaused(bool paused) { return user_paused_.exchange(paused) != paused; }

  // True exactly when the session's shard, and so its port, may be gone.
  [[nodiscard]] bool finished() const IOCP_REQUIRES(mutex_) { return finished_; }
  // Accepted sends that the owner has not seen yet. Whoever adds to them calls NoteRequest.
  [[nodiscard]] SendQueue& sends() IOCP_REQUIRES(mutex_) { return sends_; }
  void NoteRequest() IOCP_REQUIRES(mutex_) { requested_.store(true, std::memory_order_release); }
  // False when there is nothing new to ask for: the session has finished, or is closing already.
  bool RequestClose(CloseReason why) IOCP_REQUIRES(mutex_);
  bool RequestAbort(CloseReason why) IOCP_REQUIRES(mutex_);
  // A completion that came to a worker which is not the owner. True when the port must pause.
  bool Leave(Completion&& completion) IOCP_REQUIRES(mutex_);
  // True when the session has to be posted now: it is not with the port.
  bool BeginPosting() IOCP_REQUIRES(mutex_);
  void EndPosting() IOCP_REQUIRES(mutex_) { posted_ = false; }
  [[nodiscard]] std::size_t mail_size() const IOCP_REQUIRES(mutex_) { return mail_.size(); }

  // --- The owner's.

  struct Contents {
    std::vector<Completion> mail;
    LostMail lost;
    bool paused = false;  // true exactly when the port was asked to pause, as there was much mail
    bool close = false;
    bool abort = false;
    CloseReason reason{};  // of what was asked for first
  };
  // True exactly when there is something for the owner.
  [[nodiscard]] bool has_requests() const { return requested_.load(std::memory_order_acquire); }
  // Moves the sends behind those in `sending`.
  Contents Take(SendQueue& sending);
  // From now on no send is accepted; those that were are moved behind those in `sending`.
  void StopSends(SendQueue& sending);
  // No posting of this session may follow. False while one is with the port.
  bool Finish();

 private:
  std::atomic<bool> open_{true};  // written under mutex_, as are the next three
  std::atomic<bool> close_requested_{false};
  std::atomic<bool> abort_requested_{false};
  std::atomic<bool> requested_{false};
  std::atomic<bool> user_paused_{false};

  bool paused_ IOCP_GUARDED_BY(mutex_) = false;  // see Contents::paused
  bool posted_ IOCP_GUARDED_BY(mutex_) = false;  // true exactly when the session is with the port
  bool finished_ IOCP_GUARDED_BY(mutex_) = false;
  CloseReason reason_ IOCP_GUARDED_BY(mutex_) = CloseReason::kLocalClose;
  mutable Mutex mutex_;
  SendQueue sends_ IOCP_GUARDED_BY(mutex_);
  std::vector<Completion> mail_ IOCP_GUARDED_BY(mutex_);
  LostMail lost_ IOCP_GUARDED_BY(mutex_);
};

}  // namespace iocp
