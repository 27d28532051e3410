// The completion port on io_uring: one ring, used by one worker.
//
// A call only notes what a socket wants and puts its channel into a queue. Wait goes through the
// queue, compares what is wanted with what the kernel was asked for, and submits the difference. So
// Pause and Resume in quick succession cost nothing. A request that the kernel cannot take now, or
// a cancellation that it missed, is simply still a difference the next time.
#pragma once

#include <liburing.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "port/common/batch.h"
#include "port/common/gather.h"
#include "port/common/posting_queue.h"
#include "port/common/wake_event.h"
#include "port/completion_port.h"
#include "port/uring/uring_buffers.h"
#include "port/uring/uring_setup.h"

namespace iocp {

extern const PortKind kUringPortKind;

// For tests. The defaults are right for everybody else.
struct UringTuning {
  RingSetUp set_up = io_uring_queue_init_params;
  bool incremental_buffers = true;  // use them where the kernel has them
  unsigned blocks = 0;              // in the buffer ring, a power of two; 0: the port chooses
};

// Counts of rare events since Open. Only the worker's thread reads them.
struct UringCounters {
  std::uint64_t starved = 0;          // receives that found no buffer
  std::uint64_t overflows = 0;        // turns that found the completion queue overflowing
  std::uint64_t dropped = 0;          // times the kernel said that it lost completions
  std::uint64_t out_of_memory = 0;    // operations tried again because the kernel had no memory
  std::uint64_t missed_cancels = 0;   // cancellations that did not find their operation
  std::uint64_t refused_submits = 0;  // submissions that the kernel pushed back
};

class UringPort final : public CompletionPort {
 public:
  explicit UringPort(const PortOptions& options, const UringTuning& tuning = {});
  ~UringPort() override;

  Error Open() override;
  Error Accept(Socket& listener) override;
  Error Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) override;
  void Receive(Socket& socket) override;
  void Pause(Socket& socket) override;
  void Resume(Socket& socket) override;
  void Send(Socket& socket, const Piece* pieces, std::size_t count) override;
  std::size_t SendNow(Socket& socket, const Piece* pieces, std::size_t count) override;
  void ShutdownSend(Socket& socket) override;
  void Cancel(Socket& socket) override;
  void Close(Socket& socket, bool reset) override;
  void Discard(NativeSocket handle, bool reset) override;
  bool ReceiveAtHand(Socket& socket, std::uint64_t seen) override;
  bool SendAtHand(Socket& socket) override;
  std::size_t Unacknowledged(Socket& socket) override;
  void Post(Posting& posting) override;
  std::size_t Wait(Completion* batch, std::size_t capacity, std::size_t max_bytes,
                   TimePoint deadline) override;
  [[nodiscard]] TimePoint Now() const override { return std::chrono::steady_clock::now(); }
  [[nodiscard]] bool shared() const override { return false; }
  [[nodiscard]] bool sends_now() const override { return true; }
  [[nodiscard]] int pending_accepts() const override {
    return accepting_.load(std::memory_order_relaxed);
  }

  [[nodiscard]] const UringCounters& counters() const { return counters_; }
  [[nodiscard]] const UringBuffers& buffers() const { return buffers_; }
  [[nodiscard]] unsigned setup_flags() const { return ring_.flags; }

 private:
  struct Channel;
  struct Lists;

  Channel* TakeChannel();
  void ReleaseIfUnused(Channel& channel);
  static Channel& ChannelOf(const Socket& socket);
  void MarkChanged(Channel& channel);

  // Wait, step by step.
  void TakePostings(Batch& batch);
  void SettleChanges(Batch& batch);
  void EnterSystem(const Batch& batch, TimePoint deadline);
  void SleepWithoutRing(const Batch& batch, TimePoint deadline);
  void TakeResults(Batch& batch);

  void ReleaseStarved();
  bool Settle(Channel& channel, Batch& batch);
  void NoteLeftResults();
  bool SettleReceive(Channel& channel, Batch& batch);
  bool SettleWatch(Channel& channel);
  bool SettleSend(Channel& channel, Batch& batch);
  bool SettleWithoutRing(Channel& channel, Batch& batch);
  bool SubmitReceive(Channel& channel);
  bool SubmitSend(Channel& channel);
  bool SubmitCancel(Channel& channel, std::uint64_t tag, std::uint64_t target);
  bool SubmitWatch(Channel& channel);
  bool SubmitWakeUp();
  io_uring_sqe* NextEntry();
  bool PrepareToSleep(TimePoint deadline, __kernel_timespec* timeout);
  void NoteSubmission(int result);
  void Break();

  bool TakeResult(const io_uring_cqe& cqe, Batch& batch);
  void OnReceiveResult(Channel& channel, const io_uring_cqe& cqe, Batch& batch);
  void OnAcceptResult(Channel& channel, const io_uring_cqe& cqe, Batch& batch);
  void CountAccepting(Channel& channel);
  void OnSendResult(Channel& channel, int result, Batch& batch);
  void OnWatchResult(Channel& channel, int result, bool more);
  void OnCancelResult(Channel& channel, int result, std::uint64_t tag);
  // True when the operation will be tried again.
  bool TryAgain(Channel& channel, int error_number, bool cancelled);
  void SetArmed(Channel& channel, bool armed);
  void EndReceive(Channel& channel, Error error, Batch& batch);
  void EndSend(Channel& channel, Error error, std::size_t bytes, Batch& batch);

  const PortOptions options_;
  const UringTuning tuning_;
  // Destroyed after the ring, which the destructor ends by hand (R10).
  UringBuffers buffers_;
  io_uring ring_{};
  bool has_ring_ = false;  // true exactly when ring_ was created and not yet destroyed
  WakeEvent wake_;
  // True exactly when the ring watches wake_, or will from the next submission on, or there is no
  // ring any more.
  bool wake_watched_ = false;
  // True exactly when the last Wait did not ask the kernel for completions.
  bool skipped_system_ = false;
  // True exactly when the next Wait hands out postings before results. They take turns, so that
  // neither starves the other.
  bool postings_first_ = true;
  // True exactly when the kernel pushed the last submission back.
  bool pushed_back_ = false;
  // True exactly when receives waited for buffers as ReleaseStarved looked for the last time.
  bool found_no_buffer_ = false;
  // Why the kernel takes no more submissions; kNone: it does. The port breaks, and its ring goes,
  // when the completions that the ring still has are handed out.
  Error refused_;
  bool report_broken_ = false;  // true exactly when the next Wait is to report it (R11)
  std::uint64_t waits_ = 0;     // calls of Wait
  // The Wait after which NoteLeftResults looked last, and the first result that it has not seen.
  std::uint64_t left_by_ = 0;
  unsigned left_seen_ = 0;
  std::size_t operations_in_flight_ = 0;  // of the system, cancellations not counted

  std::unique_ptr<Lists> lists_;
  // When the operations that the kernel had no memory for are tried again.
  TimePoint delayed_until_{};
  Channel* all_channels_ = nullptr;
  Channel* free_channels_ = nullptr;
  FreeGathers free_gathers_;
  UringCounters counters_;

  PostingQueue posted_;
  std::atomic<int> accepting_{0};
};

}  // namespace iocp
