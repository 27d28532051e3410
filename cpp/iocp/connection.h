// One client, and a counted reference to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "iocp/address.h"
#include "iocp/buffer.h"
#include "iocp/close_reason.h"
#include "iocp/framing.h"
#include "iocp/time.h"
#include "iocp/timer.h"
#include "iocp/tls.h"

namespace iocp {

enum class SendResult : std::uint8_t {
  kAccepted,     // will be written in full and in order, or the connection is reported closed
  kClosed,       // the connection is closing or closed; nothing was queued
  kBacklogFull,  // the backlog is at its limit; nothing was queued
};

// One client. Every function may be called from any thread, in a hook or not, at any time. After
// the connection has closed the object is a dead handle: functions answer, and do nothing.
// Objects are counted: a reference given to a hook is valid while the hook runs. A ConnectionPtr
// keeps the object longer, and may outlive the Server.
class Connection {
 public:
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Queues bytes; never blocks. The order on the wire is the order in which Send returned.
  // OnWriteCompleted reports that the last byte of this send is with the system; an empty send is
  // complete as soon as everything before it is. A send of any size is taken while the backlog is
  // below Options::send_backlog_limit. `Send(data, size)` copies; the form with SharedBytes does
  // not, and takes `bytes` over only when it answers kAccepted. Throws std::bad_alloc, and has
  // queued nothing, when there is no memory for it.
  SendResult Send(const void* data, std::size_t size);
  SendResult Send(const SharedBytes& bytes);
  // Sends received bytes, to this or another connection; `bytes` is empty after kAccepted. They are
  // not copied if they fill a quarter of their block, which then stays out of the pool until they
  // are sent.
  SendResult Send(Buffer& bytes);
  // Copies several pieces and sends them as one: contiguous on the wire, one OnWriteCompleted.
  SendResult Send(const std::string_view* pieces, std::size_t count);

  // Sends messages with this connection's framing, as one send: each as a peer with the same
  // framing would receive it. Those with a `release` are taken over when the answer is kAccepted.
  // They are sent without a copy; or they have been copied, and this function calls `release`: when
  // the framing encodes messages, OnWriteCompleted is wanted or Options::max_pending_sends is set.
  // Throws std::invalid_argument, with a sentence, when the framing cannot carry one of them,
  // std::logic_error without a framing, and std::bad_alloc; nothing was queued then.
  SendResult SendMessages(std::span<const SharedBytes> messages);
  // One message, which is copied. Windows has a macro SendMessage.
  SendResult SendAsMessage(std::string_view message);

  // The rule that cuts received bytes into messages; null: none, and OnReadCompleted gets the bytes
  // as they come. At first it is Options::framing. In a hook of this connection the new one cuts
  // what is behind the bytes, the message or the list that the hook got. Elsewhere it cuts all that
  // no hook has been given.
  void SetFraming(FramingPtr framing);
  [[nodiscard]] FramingPtr framing() const;
  // Why the error that OnConnectionError reports is kBadFrame. In hooks of this connection only.
  [[nodiscard]] FrameFault frame_fault() const;

  // The result of the handshake; none before it is done, and without TLS. It stays when the
  // connection has ended.
  [[nodiscard]] std::optional<TlsInfo> tls() const;
  // Why the error that OnConnectionError reports is kTls or kTruncated, in a sentence. In hooks of
  // this connection only.
  [[nodiscard]] std::string tls_fault() const;
  // Begins TLS on a connection without it, as STARTTLS does. In hooks and callbacks of this
  // connection only. Bytes that were sent before go out as they are; those that still wait are
  // copied. Bytes that are sent later go out when the handshake is done. A handshake that fails is
  // reported by OnConnectionError. Does nothing when the connection is not open.
  //
  // Throws std::logic_error elsewhere, for a connection that has TLS, and for a `tls` that is none;
  // std::runtime_error when the peer has sent something that no hook was given, which must not
  // count as sent in TLS; TlsError, also for a client that would verify and has no server_name; and
  // std::bad_alloc. Nothing was changed then.
  void StartTls(const Tls& tls);

  // Sends what is queued, ends the stream, waits for the peer at most Options::close_timeout,
  // closes. A peer that has not acknowledged all bytes by then is reset. Whatever the peer still
  // sends is discarded. When the peer ends its stream the server closes the connection this way,
  // once the hooks have had all data before the end, unless Handler::OnEndOfStream keeps it open:
  // for an answer that another thread works out, say.
  void Close();
  // Resets the connection now. Whatever is queued, to send or to deliver, is dropped.
  void Abort();
  // Abort with a reason of its own for OnConnectionClosing.
  void Abort(CloseReason reason);

  // After PauseReading returns in a hook of this connection, neither OnReadCompleted nor OnMessage
  // nor OnMessages is called until ResumeReading. The end of stream waits with the data before it.
  // A connection that breaks does not: it is closed at once, and what had been received and not
  // delivered is dropped. Windows does not report that before ResumeReading while nothing is being
  // sent; elsewhere this may happen once the peer has ended its stream.
  void PauseReading();
  void ResumeReading();

  // Options::idle_timeout and receive_timeout for this connection alone; no value: off. A new one
  // holds at once, from the moment that the old one counted from: when more time than that has
  // passed, the connection is closed within a tick of 10 ms, unless something has come meanwhile.
  // The first two throw std::invalid_argument for a duration that Server::Start would refuse. The
  // next two go back to the server's. They do nothing when the connection is not open.
  void SetIdleTimeout(std::optional<Duration> timeout);
  void SetReceiveTimeout(std::optional<Duration> timeout);
  void InheritIdleTimeout();
  void InheritReceiveTimeout();
  // As last set; at first the server's.
  [[nodiscard]] std::optional<Duration> idle_timeout() const;
  [[nodiscard]] std::optional<Duration> receive_timeout() const;

  // Calls `callback` later, on the connection's worker. Callbacks never overlap the connection's
  // hooks, nor each other, and are counted among them in Stats. They go on while the connection is
  // closing, and end with it: none runs after OnConnectionError or OnConnectionClosing has begun. A
  // reference to the connection is good while one runs. Once the socket is closed nothing is
  // scheduled, and the handle that is returned is dead. An exception goes to
  // Handler::OnCallbackError. Throws std::bad_alloc, and has scheduled nothing, when there is no
  // memory for it.
  //
  // CallSoon: before the next hook of this connection, and before anything that is received from
  // now on; in the order of the calls. Unless it is cancelled, the callback is always run.
  // CallLater: when `delay` has passed, never earlier. If the worker is not busy it is about a
  // millisecond late, and up to five when many timers go off. Timers run in the order of their
  // deadlines.
  // CallEvery: again and again. Each deadline is `interval` after the one before, so it does not
  // drift; those that a busy worker has missed are left out. At most one time per millisecond.
  TimerHandle CallSoon(Callback callback);
  TimerHandle CallLater(Duration delay, Callback callback);
  TimerHandle CallEvery(Duration interval, Callback callback);

  // Never reused while the process lives.
  [[nodiscard]] std::uint64_t id() const { return id_; }
  [[nodiscard]] const Address& remote_address() const { return remote_; }
  [[nodiscard]] const Address& local_address() const { return local_; }
  // True exactly when Send would not answer kClosed.
  [[nodiscard]] bool is_open() const;
  // Bytes accepted by Send that the system has not taken yet. The limit counts more than these:
  // see Options::send_backlog_limit.
  [[nodiscard]] std::size_t send_backlog() const;
  [[nodiscard]] std::uint64_t bytes_received() const;
  [[nodiscard]] std::uint64_t bytes_sent() const;

  // Yours; the engine never touches it. Set it directly in hooks of this connection only. Elsewhere
  // use AttachUserData. It returns false, and sets nothing, once the connection has ended, as
  // OnConnectionReleased would not be called any more.
  void* user_data = nullptr;
  bool AttachUserData(void* data);

  // For ConnectionPtr.
  void AddReference() const;
  void DropReference() const;

 protected:
  Connection() = default;
  ~Connection() = default;

  std::uint64_t id_ = 0;
  Address remote_;
  Address local_;
};

// A counted reference to a connection.
class ConnectionPtr {
 public:
  ConnectionPtr() = default;
  explicit ConnectionPtr(Connection* connection) : connection_(connection) {
    if (connection_ != nullptr) connection_->AddReference();
  }
  ConnectionPtr(const ConnectionPtr& other) : ConnectionPtr(other.connection_) {}
  ConnectionPtr(ConnectionPtr&& other) noexcept { std::swap(connection_, other.connection_); }
  ConnectionPtr& operator=(ConnectionPtr other) noexcept {
    std::swap(connection_, other.connection_);
    return *this;
  }
  ~ConnectionPtr() {
    if (connection_ != nullptr) connection_->DropReference();
  }

  [[nodiscard]] Connection* get() const { return connection_; }
  Connection* operator->() const { return connection_; }
  Connection& operator*() const { return *connection_; }
  explicit operator bool() const { return connection_ != nullptr; }

 private:
  Connection* connection_ = nullptr;
};

}  // namespace iocp
