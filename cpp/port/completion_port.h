// THE BOUNDARY: the completion port, which every system has in a form of its own.
//
// A port accepts, receives, sends, cancels, closes, posts and waits. Everything above it is the
// same code on every system. One worker waits on a port, or several where `shared()` says so
// (Windows); a server with more workers makes more ports.
//
// The rules follow. Each is a case of the conformance suite, which runs over every port.
//
// R1  Every operation ends exactly once. Everything about it comes out of Wait, never out of the
//     call that started it. Accept and Receive are long-lived: they yield any number of
//     completions and then one with `last` set. Send has one completion, always `last`.
// R2  The operation's memory, buffer and socket stay alive until the `last` completion has come,
//     cancelled or not.
// R3  The port takes the receive buffer from the pool as late as the system allows: an idle
//     connection holds none, or those that are posted ahead. Every receive completion has its
//     `sequence` in the stream, 0, 1, 2, ..., the end of the stream included. Where several
//     receives are posted, they complete in any order, and the server puts them in order. Receives
//     posted after the one that saw the end of the stream complete too, without data. The `last`
//     completion has the highest number: the operation has ended when it and all before it have
//     come.
// R4  One send per socket is in flight, gathered from several pieces. A short send is normal: the
//     server sends the rest. While none is in flight, SendNow offers bytes to the system, which
//     takes some, all or none of them at once; it has no completion, and not every port has it.
//     Only the port's workers call the port, but any thread may call Post and Now.
// R5  Post works from any thread, cannot fail, and wakes a worker only if one sleeps.
// R6  Cancel names a socket and ends everything in flight on it. Close is the last call on a
//     socket, after every operation on it has ended.
// R7  A reset is never reported as an end of stream. Errors are a closed set, ErrorKind, plus the
//     system's own code; kCancelled is reported exactly for what Cancel ended.
// R8  Accepting cannot die. The error of one client is a completion, and accepting goes on. A port
//     accepts on any number of listeners. Several ports may accept on one handle, each by a Socket
//     of its own, unless a port is shared: nothing that happens to one Socket touches another,
//     and the handle stays open. Whoever listens closes it with close_listener, once no port
//     accepts on it.
//     If there is a gate (PortOptions), the port asks it before it takes a client from the
//     system. While the gate has no room, the clients stay with the system: accepting on that
//     Socket is paused until Resume, without a completion.
//     Running out of descriptors or memory, or any other failure that would come again at once, is
//     a completion with kOutOfResources and the system's code, and accepting is paused until
//     Resume: never a busy loop, never an exit.
// R9  Wait returns a batch that is bounded in number and in received bytes, hides interruptions by
//     signals, and honours its deadline. It may return earlier, with nothing.
// R10 A port is destroyed only with nothing in flight. The system's object goes first, the memory
//     after it. A posting that nobody has taken by then is forgotten.
// R11 A port says whether it is available and, if not, why, in words a user can act on. The system
//     may refuse for good what it allowed before, as a seccomp filter does that is set late. The
//     port is broken then: Wait reports it once, as kBroken. Everything in flight ends with that
//     error, accepting included, and so does whatever begins later. Post still wakes, Wait still
//     sleeps, Cancel and Close work. The port never works again.
// R12 When asked about a connection, a port reports whether it has something that Wait has not
//     returned yet. So a client whose bytes have arrived is never closed as silent.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "iocp/address.h"
#include "iocp/backend.h"
#include "iocp/buffer.h"
#include "iocp/error.h"
#include "iocp/keep_alive.h"
#include "iocp/time.h"
#include "stream/buffer_pool.h"
#include "stream/piece.h"

namespace iocp {

using TimePoint = std::chrono::steady_clock::time_point;

// A system's socket: a descriptor, or a SOCKET.
using NativeSocket = std::intptr_t;
inline constexpr NativeSocket kNoSocket = -1;

// A socket as the port knows it: a listener or a connection. The server derives its own object from
// it and gets it back with every completion. The port owns the fields below; nobody else touches
// them between Adopt and Close.
struct Socket {
  NativeSocket handle = kNoSocket;
  std::uint64_t next_sequence = 0;  // of the next receive completion
  void* port_data = nullptr;        // the port's channel; null before the port knows the socket
  std::uint8_t state = 0;           // bits, with meanings of each port's own
  std::uint8_t interest = 0;        // what the poller watches it for (readiness port only)
};

// Decides whether there is room for one more client, if new clients have to wait for it (R8).
// Ports call it from any worker, with locks of their own held.
class AcceptGate {
 public:
  AcceptGate() = default;
  AcceptGate(const AcceptGate&) = delete;
  AcceptGate& operator=(const AcceptGate&) = delete;

  // True: room for one client is taken; whoever gets the accepted socket gives it back. False:
  // `listener`, on which it was to be accepted, is resumed when there may be room.
  virtual bool Enter(Socket& listener) = 0;
  // Enter answered true, and then no client came.
  virtual void Leave() = 0;

 protected:
  ~AcceptGate() = default;
};

// A message to a worker. It is embedded in its owner and posted at most once at a time.
struct Posting {
  Posting* next = nullptr;  // the port's
  int tag = 0;              // the poster's own, to distinguish its postings
};

enum class Operation : std::uint8_t {
  kAccept,
  kReceive,
  kSend,
  kPost,
  kBroken,  // no operation: the port is broken (R11), and `error` says why
};

struct Completion {
  Operation operation = Operation::kPost;
  bool last = true;                   // the operation has ended
  Error error;                        // kNone: it succeeded
  Socket* socket = nullptr;           // kAccept: the listener; null for kPost and kBroken
  NativeSocket accepted = kNoSocket;  // kAccept without error: the receiver owns it
  std::uint64_t sequence = 0;         // kReceive
  std::size_t bytes = 0;              // kSend: bytes that the system took
  Buffer buffer;                      // kReceive without error
  Posting* posting = nullptr;         // kPost
};

// Large enough for a batch, and small enough that hooks find its data still in the cache.
inline constexpr std::size_t kBatchCompletions = 256;
inline constexpr std::size_t kBatchBytes = 128 * 1024;

// How to set up a listener and its connections. They inherit it where the system does that.
struct ListenOptions {
  std::string host;
  int port = 0;
  int backlog = 1024;
  bool no_delay = true;
  bool reuse_port = false;
  bool dual_stack = true;
  std::optional<KeepAlive> keepalive;
};

struct PortOptions {
  BufferPool* pool = nullptr;  // outlives the port
  int initial_accepts = 10;
  int max_accepts = 100;
  AcceptGate* gate = nullptr;  // null: new clients never wait for room. Outlives the port
  int initial_reads = 4;
  Duration close_timeout = std::chrono::seconds(5);  // see Close
  std::optional<KeepAlive> keepalive;  // where connections do not inherit the listener's
  bool no_delay = true;
};

class CompletionPort {
 public:
  CompletionPort() = default;
  CompletionPort(const CompletionPort&) = delete;
  CompletionPort& operator=(const CompletionPort&) = delete;
  virtual ~CompletionPort() = default;

  // By each worker, on its own thread, before anything else. May fail.
  virtual Error Open() = 0;

  // Begins to accept on `listener`, whose handle listens, once in its life. Completions bring
  // sockets. On an error nothing has begun and nothing is kept; another try is allowed.
  virtual Error Accept(Socket& listener) = 0;
  // Makes `handle`, accepted by this port or another of its kind, a socket of this port, and
  // returns its two addresses. On the call `local` is where its listener is bound, or of no family
  // if that is not known. On an error nothing is kept; the caller still owns `handle`.
  virtual Error Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) = 0;
  // Begins to receive, once in a socket's life.
  virtual void Receive(Socket& socket) = 0;
  // For flow control, on a listener that accepts or a connection that receives. After Pause a few
  // more completions may come, for what the system already had in hand; then none until Resume. The
  // operation stays in flight. Where the system reports it, a connection that breaks ends the
  // operation; bytes that had arrived and were not received are lost then. Neither call has a
  // completion. Both are idempotent. Pause may be called with a lock held.
  virtual void Pause(Socket& socket) = 0;
  virtual void Resume(Socket& socket) = 0;
  // `pieces` (1 to kMaxPieces, none empty) live during the call, their bytes until the completion.
  virtual void Send(Socket& socket, const Piece* pieces, std::size_t count) = 0;
  // Offers the pieces, as for Send, while no send is in flight. Returns how many bytes the system
  // took. It never waits, so the system has no room for more when these are not all. If the
  // connection is broken it returns 0, and the next Send reports the error. Not to be called where
  // `sends_now()` is false.
  virtual std::size_t SendNow(Socket& socket, const Piece* pieces, std::size_t count) = 0;
  // Ends the stream towards the peer. No send is in flight.
  virtual void ShutdownSend(Socket& socket) = 0;
  virtual void Cancel(Socket& socket) = 0;
  // Closes the handle; with `reset` the peer gets a reset, whatever is still queued. Without, the
  // system goes on sending what is queued, for PortOptions::close_timeout where it can be asked to.
  // A listener's handle stays open (R8); what the port has kept for the Socket goes.
  virtual void Close(Socket& socket, bool reset) = 0;
  // The same for a handle that was never adopted.
  virtual void Discard(NativeSocket handle, bool reset) = 0;

  // The connection's owner asks the following when a deadline has passed (R12). Each may cost a
  // system call.
  //
  // True exactly when the receive, paused or not, has something that the caller has not seen: the
  // system has it, or it is on its way through the port, or another worker has it. `seen` is how
  // many of its completions the caller has seen.
  virtual bool ReceiveAtHand(Socket& socket, std::uint64_t seen) = 0;
  // True exactly when the send in flight has ended or will end with the next Wait.
  virtual bool SendAtHand(Socket& socket) = 0;
  // Bytes that the system has taken and the peer has not acknowledged; 0 where the system does not
  // report them.
  virtual std::size_t Unacknowledged(Socket& socket) = 0;

  virtual void Post(Posting& posting) = 0;

  // Returns up to `capacity` completions, whose buffers hold at most `max_bytes` (but one receive
  // always fits). Blocks until there is one or until `deadline`; not at all when that has passed.
  // Submits the operations that the calls above have started.
  virtual std::size_t Wait(Completion* batch, std::size_t capacity, std::size_t max_bytes,
                           TimePoint deadline) = 0;

  [[nodiscard]] virtual TimePoint Now() const = 0;
  // True exactly when several workers may wait on this port.
  [[nodiscard]] virtual bool shared() const = 0;
  // True exactly when the system can say at once how much it takes: see SendNow.
  [[nodiscard]] virtual bool sends_now() const = 0;
  // Accept operations that are with the system now. Any thread.
  [[nodiscard]] virtual int pending_accepts() const = 0;
};

// A kind of port. Users choose it by name.
struct PortKind {
  const char* name;
  // "" when this system can run it; otherwise why not, for a user (R11).
  std::string (*why_unavailable)();
  std::unique_ptr<CompletionPort> (*create)(const PortOptions& options);
  // Resolves, creates, binds and listens. Any thread. On failure nothing is left behind; the
  // message names the step and the address.
  Status (*listen)(const ListenOptions& options, NativeSocket* listener, Address* bound);
  void (*close_listener)(NativeSocket listener);
};

// The kinds that this library has, best first. One file per system lists them.
struct PortKinds {
  const PortKind* const* first;
  std::size_t count;
};
PortKinds BuiltInPortKinds();
// The back-ends of other systems or builds, with the reason why this library lacks them.
std::vector<BackendInfo> AbsentBackends();

}  // namespace iocp
