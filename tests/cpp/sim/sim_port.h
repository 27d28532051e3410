// A completion port that does not exist: the boundary of cpp/port/completion_port.h over the
// simulated network. It does what a port may do and real ones seldom do: completions late and in
// any order, short reads and sends, cancels that come too late, errors of every kind. And it
// watches whether the server keeps its side of the rules.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "network.h"
#include "port/completion_port.h"

namespace iocp::sim {

class SimPort final : public CompletionPort {
 public:
  SimPort(Network& network, const PortOptions& options);
  ~SimPort() override;

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
  [[nodiscard]] TimePoint Now() const override { return network_.now(); }
  [[nodiscard]] bool shared() const override { return network_.settings.shared; }
  [[nodiscard]] bool sends_now() const override { return network_.settings.sends_now; }
  [[nodiscard]] int pending_accepts() const override;

  // From now on the system refuses its work (R11).
  void Break();

  // See Network::SilentSince.
  std::optional<TimePoint> SilentSince(std::uint16_t client_port);

  // For who steps the workers: true when Wait would bring something now.
  bool Ready();
  // When it will next; max when nothing is under way.
  [[nodiscard]] TimePoint NextReady() const;

  // The sums of what it has reported, for comparing with the server's counters.
  struct Reported {
    std::uint64_t accepts = 0;        // sockets
    std::uint64_t accept_errors = 0;  // and sockets that could not be adopted
    std::uint64_t received_bytes = 0;
    std::uint64_t sent_bytes = 0;
  };
  [[nodiscard]] const Reported& reported() const { return reported_; }
  [[nodiscard]] std::size_t adopted() const { return streams_.size(); }
  // Calls `look(socket, since)` for each socket that it has adopted, and when it has.
  template <typename Look>
  void ForEachAdopted(Look look) const {
    for (const auto& stream : streams_) look(*stream->socket, stream->adopted_at);
  }

 private:
  // A connection, as the port knows it.
  struct Stream {
    Socket* socket;
    LinkPtr link;

    bool receiving = false;           // true exactly from Receive until Wait has brought all of it
    bool paused = false;              // true exactly when the port was last asked to pause
    bool ended = false;               // true exactly when no further read will be posted
    std::deque<std::uint64_t> reads;  // posted, by number, not completed
    std::uint64_t next_read = 0;
    std::size_t undelivered = 0;            // completed reads that Wait has not brought yet
    TimePoint retry_at = TimePoint::min();  // there was no buffer

    TimePoint adopted_at;
    TimePoint heard_at;  // see Network::GivenUp
    bool heard = false;
    TimePoint took_at;

    bool sending = false;       // true exactly from Send until its completion is made
    std::vector<Piece> pieces;  // of the send, until Wait has brought its completion
  };
  // A listener, as the port knows it, until Close.
  struct Listening {
    Socket* socket;
    bool paused = false;     // true exactly when it was last asked to pause, or the gate was full
    bool exhausted = false;  // true exactly when it has paused by itself (R8)
    bool ended = false;      // true exactly when the last completion was made
    bool brought = false;    // true exactly when Wait has brought that
  };
  struct Made {  // a completion that is on its way to Wait
    Completion completion;
    TimePoint at;
    bool brought = false;  // true exactly when it is in the batch that is being filled
  };

  static Error Failure(ErrorKind kind);
  Stream* Known(const Socket& socket, const char* call);
  // Null when it is no listener of this port.
  Listening* ListeningOn(const Socket& socket);
  void PostReads(Stream& stream);
  // Makes completions of what the network has for the operations in flight.
  void Produce();
  void ProduceAccepts(Listening& listening);
  [[nodiscard]] bool Accepts(const Listening& listening) const;
  void ProduceReads(Stream& stream);
  bool ProduceData(Stream& stream);
  bool HasArrived(Stream& stream);
  bool HasRoom(const Stream& stream);
  Block* TakeBlock();
  void EndAccept(Listening& listening, ErrorKind kind);
  void EndReads(Stream& stream, ErrorKind kind);
  void ProduceSend(Stream& stream);
  void TakePieces(Stream& stream, const Piece* pieces, std::size_t count);
  std::size_t Transmit(Stream& stream, double short_send);
  void Make(Completion completion);
  bool MayBring(const Completion& completion) const;
  std::size_t Bring(Completion* batch, std::size_t capacity, std::size_t max_bytes);
  void OnBrought(Completion& completion);
  bool Strikes(Bug bug);

  Network& network_;
  const PortOptions options_;
  bool open_ = false;
  bool broken_ = false;
  bool pool_may_fail_ = false;  // as of the last Wait: the pool is the engine's, the rest is not
  std::vector<std::unique_ptr<Stream>> streams_;
  std::deque<Made> made_;
  std::deque<Posting*> postings_;
  std::vector<std::unique_ptr<Listening>> listening_;
  Reported reported_;
};

// The kind, for whatever network lives.
extern const PortKind kSimPortKind;
}  // namespace iocp::sim
