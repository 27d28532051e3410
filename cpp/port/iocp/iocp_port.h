// The real completion port: AcceptEx, overlapped reads and sends, one port for all workers.
//
// Several reads may be outstanding for a connection. Each gets a number under the channel's lock
// when it is posted, so the numbers follow the order of the stream, whichever worker gets which
// result. This idea, and topping up accepts when a client finds none, come from the original
// CIOCPServer. The next Wait posts a read that has ended anew, after the server has sent what the
// bytes led to. The peer's answer is often there by then, so the read ends at once, which costs no
// packet. While the server keeps up with the peer, one read is enough.
#pragma once

#include <atomic>
#include <unordered_map>

#include "base/fifo.h"
#include "port/common/batch.h"
#include "port/completion_port.h"
#include "port/iocp/iocp_operation.h"

namespace iocp {

extern const PortKind kIocpPortKind;

class IocpPort final : public CompletionPort {
 public:
  explicit IocpPort(const PortOptions& options);
  ~IocpPort() override;

  Error Open() override { return open_error_; }
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
  [[nodiscard]] bool shared() const override { return true; }
  [[nodiscard]] bool sends_now() const override { return false; }
  [[nodiscard]] int pending_accepts() const override {
    return pending_accepts_.load(std::memory_order_relaxed);
  }

 private:
  struct Endpoints {
    Address local;
    Address remote;
  };

  // iocp_port.cpp: the queues and their results.
  void KeepEndpoints(NativeSocket handle, const Endpoints& endpoints);
  Error EndpointsOf(NativeSocket handle, Endpoints* endpoints);
  void PushResult(IocpOperation& operation, int code, DWORD bytes);
  void Wake();
  static bool HasRoomFor(const IocpOperation& operation, DWORD bytes, const Batch& batch);
  void TakeAtHand(Batch& batch, std::size_t limit);
  bool TakeResult(Batch& batch);
  bool TakePosting(Batch& batch);
  void PollSystem(Batch& batch, TimePoint deadline, bool may_sleep);
  void HandleEntry(const OVERLAPPED_ENTRY& entry, Batch& batch);
  static int ResultCode(IocpOperation& operation);
  void Complete(IocpOperation& operation, int code, DWORD bytes, Batch& batch);

  // iocp_accept.cpp
  Error PrepareListener(IocpListener& listener);
  void PostAccepts(IocpListener& listener);
  int PostAccept(IocpListener& listener, IocpAccept& accept);
  void PauseInTrouble(IocpListener& listener, int code);
  void EndAccepting(IocpListener& listener);
  void CompleteAccept(IocpAccept& accept, int code, Batch& batch);
  void CompleteAcceptEnd(IocpOperation& operation, int code, Batch& batch);
  void OnClientFoundNoAccept();
  bool SkipsPacketsLike(const IocpListener& listener);
  void CloseListener(IocpListener& listener);
  void PauseAccepting(IocpListener& listener);
  void ResumeAccepting(IocpListener& listener);
  void CancelAccepting(IocpListener& listener);

  // iocp_channel.cpp
  void PostReads(IocpChannel& channel);
  void PostReadsLater(IocpChannel& channel);
  void PostReadsDue();
  void EndReads(IocpChannel& channel, Completion* last);
  void PostRead(IocpChannel& channel, IocpRead& read, Block* block);
  static void WithdrawReads(IocpChannel& channel);
  void CompleteRead(IocpRead& read, int code, DWORD bytes, Batch& batch);
  void CompleteReadEnd(IocpChannel& channel, Batch& batch);
  void CompleteSend(IocpChannel& channel, int code, DWORD bytes, Batch& batch);

  const PortOptions options_;
  Error open_error_;
  HANDLE port_ = nullptr;
  std::atomic<int> pending_accepts_{0};

  Mutex listeners_lock_;  // for what follows; taken before a listener's own
  IocpListener* first_listener_ = nullptr;
  bool listened_ = false;  // true exactly when skips_packets_ is known
  // True exactly when the system's sockets queue no packet for an operation that ends at once.
  std::atomic<bool> skips_packets_{false};

  Mutex accepted_lock_;
  std::unordered_map<NativeSocket, Endpoints> accepted_;  // not adopted yet

  // At hand: results that the system has no packet for, and postings.
  Mutex at_hand_lock_;
  Fifo<IocpOperation, &IocpOperation::next> results_;
  Fifo<Posting, &Posting::next> postings_;
  std::atomic<std::size_t> at_hand_{0};  // of both; written under the lock
  // The `reads_due` of channels, for the next Wait.
  Fifo<IocpOperation, &IocpOperation::next> due_;
  std::atomic<int> sleepers_{0};     // workers that sleep or are about to
  std::atomic<bool> waking_{false};  // true exactly when a packet to wake one is in the queue
};

}  // namespace iocp
