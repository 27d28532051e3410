// The completion port on epoll: readiness turned into completions.
//
// An operation is a step that can be tried again: Send is tried at once, receives and accepts when
// the system says that they will not block; what would block waits for readiness. Results wait in
// a list until Wait hands them out. Level-triggered, one receive per readiness, so that no socket
// needs a last call that only tells "nothing more".
#pragma once

#include <sys/epoll.h>

#include <vector>

#include "port/common/posting_queue.h"
#include "port/completion_port.h"

namespace iocp {

extern const PortKind kEpollPortKind;

class EpollPort final : public CompletionPort {
 public:
  explicit EpollPort(const PortOptions& options);
  ~EpollPort() override;

  Error Open() override;
  Error Accept(Socket& listener) override;
  Error Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) override;
  void Receive(Socket& socket) override;
  void Pause(Socket& socket) override;
  void Resume(Socket& socket) override;
  void Send(Socket& socket, const Piece* pieces, std::size_t count) override;
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
  [[nodiscard]] int pending_accepts() const override {
    return accepting_.load(std::memory_order_relaxed);
  }

 private:
  struct Stream;
  struct Gather;
  struct Batch;

  static Stream& StreamOf(const Socket& socket);
  void Watch(Socket& socket);
  void Unwatch(Socket& socket);
  void Break(int error_number);
  void TakeAtHand(Batch& batch, std::size_t limit);
  void PollSystem(TimePoint deadline, bool may_sleep);
  void HandleEvents(Batch& batch);
  void AcceptSome(Socket& listener, Batch& batch);
  void CountAccepting(const Socket& socket);
  void ReceiveOnce(Socket& socket, Batch& batch);
  void FinishSend(Socket& socket, Batch& batch);
  bool TrySend(Socket& socket, const Piece* pieces, std::size_t count);
  void EndReceive(Socket& socket, Error error);
  void EndSend(Socket& socket, Error error);
  void ForgetSend(Socket& socket);
  void AddResult(Stream& stream, std::uint8_t result);
  void TakeResult(Stream& stream, Batch& batch);
  bool RoomToReceive(Batch& batch);

  const PortOptions options_;
  int epoll_ = -1;
  int wake_ = -1;  // an eventfd, watched edge-triggered, so it never needs to be read
  PostingQueue posted_;
  std::atomic<int> accepting_{0};

  // Events that the last look at the system brought, from next_event_ on not handled yet. Kept, so
  // that a batch that is full does not starve the sockets at its end.
  std::vector<epoll_event> events_;
  std::size_t next_event_ = 0;
  std::size_t event_count_ = 0;

  Block* block_ = nullptr;  // receives of one Wait are packed into it, from used_ on
  std::size_t used_ = 0;

  Stream* first_result_ = nullptr;  // those with something for the next Wait to tell of
  Stream* last_result_ = nullptr;   // of that list, when it is not empty
  Stream* first_open_ = nullptr;    // those of all sockets of this port
  Error broken_;                    // why the port is broken; kNone: it is not
  bool report_broken_ = false;      // true exactly when the next Wait is to report it
  Gather* free_gathers_ = nullptr;
};

}  // namespace iocp
