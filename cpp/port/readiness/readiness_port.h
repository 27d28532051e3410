// The completion port on readiness: it turns "this socket can be read" into completions.
//
// An operation is a step that can be tried again. Send is tried at once; receives and accepts are
// tried when the poller reports that they will not block. An operation that would block waits until
// its socket is ready. Results wait in a queue until Wait hands them out. The poller reports a
// socket for as long as it is ready, and each report leads to one receive, so no socket needs a
// last call that only finds nothing more.
#pragma once

#include <atomic>

#include "base/fifo.h"
#include "port/common/batch.h"
#include "port/common/gather.h"
#include "port/common/posting_queue.h"
#include "port/completion_port.h"
#include "port/readiness/poller.h"
#include "port/readiness/readiness.h"
#include "port/readiness/readiness_channel.h"

namespace iocp {

extern const PortKind kReadinessPortKind;

class ReadinessPort final : public CompletionPort {
 public:
  explicit ReadinessPort(const PortOptions& options);
  ~ReadinessPort() override;

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

 private:
  using Channel = ReadinessChannel;

  static Channel& ChannelOf(const Socket& socket);
  void Watch(Socket& socket);
  void Unwatch(Socket& socket);
  void Break(int error_number);
  void TakeAtHand(Batch& batch, std::size_t limit);
  void PollSystem(TimePoint deadline, bool may_sleep);
  void HandleReady(Batch& batch);
  void CountAccepting(const Socket& socket);
  bool ReceiveOnce(Socket& socket, Batch& batch);
  void FinishSend(Socket& socket, Batch& batch);
  bool TrySend(Socket& socket, const Piece* pieces, std::size_t count);
  void EndReceive(Socket& socket, Error error);
  void EndSend(Socket& socket, Error error);
  void ForgetSend(Socket& socket);
  void AddResult(Channel& channel, std::uint8_t result);
  void TakeResult(Batch& batch);
  bool RoomToReceive();

  const PortOptions options_;
  Poller poller_;
  PostingQueue posted_;
  std::atomic<int> accepting_{0};

  ReadySockets ready_;  // found by the last look at the system and not handled yet

  Block* block_ = nullptr;  // receives of one Wait are packed into it, from used_ on
  std::size_t used_ = 0;

  Fifo<Channel, &Channel::next> results_;  // channels with results for the next Wait
  Channel* first_open_ = nullptr;          // the channels of all sockets of this port
  Error broken_;                           // why the port is broken; kNone: it is not
  bool report_broken_ = false;             // true exactly when the next Wait is to report it
  FreeGathers free_gathers_;
};

}  // namespace iocp
