// iocp::Server: a TCP server on completion ports. The public C++ API; it includes no system header.
//
// Derive from Server, override the hooks you need, call Start. Worker threads accept, receive and
// send; they call the hooks. The grammar of hooks of one connection is
//
//     established -> (read | write)* -> [error] -> closing
//
// with exactly one `closing`, last, for every `established`. Hooks of one connection are serial and
// in order; hooks of different connections run in parallel where there are several workers. No hook
// runs under a lock, so a hook may call anything here, Shutdown included. What would wait for a
// server to stop does not wait on a worker thread, of whichever server: it might wait for itself.
//
// The class, its hooks and most option defaults come from the classic Windows CIOCPServer.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace iocp {

using Duration = std::chrono::nanoseconds;

// What went wrong, the same on every system; Error::code holds the system's own number.
enum class ErrorKind : std::uint8_t {
  kNone,
  kEndOfStream,     // the peer ended its stream in order
  kReset,           // the peer, or the network, broke the connection
  kCancelled,       // we cancelled the operation ourselves
  kTimedOut,        // the system gave up on a silent peer
  kClientGone,      // a client left before its connection was accepted
  kOutOfResources,  // descriptors, buffers or memory are exhausted for now
  kAddressInUse,
  kAddressUnavailable,
  kAccessDenied,
  kInvalidArgument,
  kUnsupported,
  kOther,
};

struct Error {
  ErrorKind kind = ErrorKind::kNone;
  // errno, or a Winsock code on Windows; 0 where the system named none. With kOutOfResources that
  // is when the engine itself found no memory.
  int code = 0;

  explicit operator bool() const { return kind != ErrorKind::kNone; }
};

// Why Start failed: the step, the system's error, and a sentence that names both and the address.
struct Status {
  enum class Problem : std::uint8_t {
    kNone,
    kBadOption,
    kAlreadyRunning,
    kNoBackend,
    kUnresolved,  // the host has no address; the code is the resolver's: EAI_*, or Winsock's
    kSystem,
  };

  Problem problem = Problem::kNone;
  Error error;
  std::string message;

  [[nodiscard]] bool ok() const { return problem == Problem::kNone; }
};

enum class CloseReason : std::uint8_t {
  kPeerClosed,        // the peer ended its stream
  kLocalClose,        // Close
  kLocalAbort,        // Abort
  kError,             // an error; OnConnectionError told which
  kFirstDataTimeout,  // Options::first_data_timeout
  kIdleTimeout,       // Options::idle_timeout
  kWriteTimeout,      // Options::write_timeout
  kShutdown,          // Shutdown closed it
  kHookError,         // an exception left a hook
};
inline constexpr std::size_t kCloseReasons = 9;

// A socket address, IPv4 or IPv6, of no system's layout.
struct Address {
  enum class Family : std::uint8_t { kNone, kIPv4, kIPv6 };

  Family family = Family::kNone;
  std::uint16_t port = 0;    // host byte order
  std::uint32_t scope = 0;   // IPv6 zone, 0 for none
  std::uint8_t bytes[16]{};  // network byte order; IPv4 uses the first four

  // The numeric host, with a zone where there is one: "127.0.0.1", "::1", "fe80::1%eth0".
  // An IPv4 client of a dual-stack listener reads as IPv4.
  [[nodiscard]] std::string Host() const;
};

class Block;  // a pool's block of memory; cpp/buffer_pool.h

// Memory and how it is given back: `release(owner)`, exactly once, on any thread. It must not
// throw.
struct BlockMemory {
  char* data = nullptr;
  void* owner = nullptr;
  void (*release)(void* owner) = nullptr;
};

// Received bytes: a part of a pooled block, shared by count. It is handed to OnReadCompleted; a
// hook that moves it out keeps the bytes, and keeps their block out of the pool until it lets go.
// Movable, and destructible on any thread.
class Buffer {
 public:
  Buffer() = default;
  // Takes over one reference to `block`.
  Buffer(Block* block, char* data, std::size_t size) : block_(block), data_(data), size_(size) {}
  Buffer(Buffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (block_ != nullptr) Release();
  }

  [[nodiscard]] const char* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::string_view view() const { return {data_, size_}; }

  // For a language whose byte strings own their memory: to receive into one rather than to copy.
  // The size of this buffer's block when the bytes are alone in it and begin where it begins; else
  // 0, and Exchange must not be called.
  [[nodiscard]] std::size_t exchangeable() const;
  // Puts `memory`, of that size, in the place of the block's, for what is received into it next.
  // What was there, the bytes at its beginning, is the caller's now; this buffer is empty.
  BlockMemory Exchange(const BlockMemory& memory);

 private:
  friend class BufferPool;
  friend class Connection;
  void Release() noexcept;

  Block* block_ = nullptr;
  char* data_ = nullptr;
  std::size_t size_ = 0;
};

// Bytes to send that the caller owns: sent from where they are, without a copy. `release(owner)`
// is called exactly once when the system no longer needs them, sent or not, on a worker thread,
// between OnBatchBegin and OnBatchEnd. It must not throw.
struct SharedBytes {
  const void* data = nullptr;
  std::size_t size = 0;
  void (*release)(void* owner) = nullptr;
  void* owner = nullptr;
};

enum class SendResult : std::uint8_t {
  kAccepted,     // will be written in full and in order, or the connection is reported closed
  kClosed,       // the connection is closing or closed; nothing was queued
  kBacklogFull,  // the backlog is at its limit; nothing was queued
};

// One client. Every function may be called from any thread, in a hook or not, at any time, also
// after the connection is closed: it is a dead handle then, which answers and does nothing.
// Objects are counted: a reference given to a hook is good while the hook runs, a ConnectionPtr
// keeps one for longer. It must not outlive its Server.
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
  // What was received, to this or another connection; `bytes` is empty after kAccepted. Without a
  // copy where they fill a quarter of their block: they keep it out of the pool until they are out.
  SendResult Send(Buffer& bytes);
  // Several pieces as one send: contiguous on the wire, one OnWriteCompleted. Copies.
  SendResult Send(const std::string_view* pieces, std::size_t count);

  // When the peer ends its stream, this is done for it: once the hooks have had all data before the
  // end, and what they sent is queued, every further Send answers kClosed, so an answer that
  // another thread works out comes too late.
  //
  // Sends what is queued, ends the stream, waits for the peer at most Options::close_timeout,
  // closes. A peer that has not acknowledged all bytes by then is reset. What the peer still sends
  // is discarded.
  void Close();
  // Resets the connection now. What is queued, to send or to deliver, is dropped.
  void Abort();
  // Abort with a reason of its own for OnConnectionClosing.
  void Abort(CloseReason reason);

  // After PauseReading returns in a hook of this connection, OnReadCompleted is not called until
  // ResumeReading. The end of stream waits with the data before it. A connection that breaks does
  // not: it is closed at once, and what had been received and not delivered is dropped. While
  // nothing is being sent, Windows does not report that before ResumeReading; nor does any system
  // once the peer has ended its stream.
  void PauseReading();
  void ResumeReading();

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

  // Yours; the engine never touches it. Set it in hooks of this connection; elsewhere with
  // AttachUserData, which answers false, and sets nothing, once the connection has ended: then
  // nobody would be told with OnConnectionReleased to let go of it.
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

enum class AtCapacity : std::uint8_t {
  kRefuse,  // accept, reset at once, count as refused
  kWait,    // leave newcomers in the system's backlog until there is room
};

enum class EstablishedOn : std::uint8_t {
  kConnect,    // OnConnectionEstablished at once: a server may speak first
  kFirstData,  // with the first data, as the original did; a client that never speaks is never told
               // of
};

struct KeepAlive {
  Duration idle = std::chrono::seconds(5);      // silence before the first probe
  Duration interval = std::chrono::seconds(1);  // between probes
};

// Bytes of a receive buffer. On Windows buffers are with the system while a connection is idle,
// initial_reads of them; elsewhere they come from a pool when there is something to receive.
#ifdef _WIN32
inline constexpr std::size_t kDefaultBufferSize = 16 * 1024;
#else
inline constexpr std::size_t kDefaultBufferSize = 64 * 1024;
#endif

// Start refuses, with a sentence that says which and why, what is out of its range.
struct Options {
  std::string host =
      "127.0.0.1";  // a name or an address; "" and "0.0.0.0" are all of IPv4, "::" all of both
  int port = 4567;  // 0 lets the system pick; Server::address tells
  std::string backend = "auto";  // "auto", "io_uring", "epoll", "iocp"; see Backends()
  int workers = 1;               // threads, 1 to 1024

  int max_connections = 2000;
  AtCapacity at_capacity = AtCapacity::kRefuse;
  int listen_backlog = 1024;
  int initial_accepts = 10;  // accepts posted ahead (Windows)
  int max_accepts = 100;     // the most accepts posted (Windows), or taken per turn (Linux)
  // Windows: reads posted for a connection at first, and again when what came has filled one; one
  // while it does not. 0: a zero-byte read.
  int initial_reads = 4;

  std::size_t buffer_size = kDefaultBufferSize;  // bytes of a receive buffer, 512 to 16 MiB
  int max_free_buffers = 200;                    // receive buffers kept for reuse
  int max_free_contexts = 100;                   // connection objects kept for reuse

  // Bytes of memory; at or above it Send answers kBacklogFull. Each send that has not ended counts
  // with its unsent bytes and with what it takes beside them: a copy and its 48 bytes of record
  // share a block of 256, 512, 1024, 2048 or 4096 bytes, or one of just their size above that;
  // SharedBytes and a Buffer have a record of 256 bytes. So no send counts less than 256 bytes
  // where OnWriteCompleted is wanted, or max_pending_sends is set. Elsewhere a send that fits into
  // the rest of the block before it counts nothing more, and an empty one nothing at all. The two
  // marks below count in the same way.
  std::size_t send_backlog_limit = 1024 * 1024;
  std::optional<int> max_pending_sends;      // the same by number of sends
  std::size_t write_high_water = 64 * 1024;  // a connection with more to send is not read from
  std::size_t write_low_water = 16 * 1024;   // until it has at most this much
  bool flow_control = true;                  // the two marks above

  EstablishedOn established_on = EstablishedOn::kConnect;
  std::optional<Duration> first_data_timeout = std::chrono::seconds(120);
  std::optional<Duration> idle_timeout;   // nothing received and nothing sent for so long
  std::optional<Duration> write_timeout;  // something to send and no byte taken for so long
  Duration close_timeout = std::chrono::seconds(5);
  std::optional<KeepAlive> keepalive = KeepAlive{};
  bool no_delay = true;     // TCP_NODELAY
  bool reuse_port = false;  // SO_REUSEPORT: several processes share the port
  bool dual_stack = true;   // "::" takes IPv4 clients as well
};

// Counters since the last Start; taken without stopping anything, so they may be a moment apart.
struct Stats {
  std::uint64_t accepted = 0;             // connections taken from the system
  std::uint64_t refused = 0;              // of those, reset because the server was full
  std::uint64_t accept_errors = 0;        // accepts that failed, for whatever reason
  std::uint64_t established = 0;          // OnConnectionEstablished was due
  std::uint64_t closed[kCloseReasons]{};  // OnConnectionClosing was due, by CloseReason
  std::uint64_t connections = 0;          // now
  std::uint64_t reads = 0;                // receives that brought data
  std::uint64_t writes = 0;               // sends given to the system that it took bytes from
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t hook_calls = 0;
  std::uint64_t hook_errors = 0;
  std::uint64_t hook_batches = 0;    // OnBatchBegin .. OnBatchEnd
  double gil_wait_seconds = 0;       // spent in OnBatchBegin
  double hook_seconds = 0;           // spent between OnBatchBegin and OnBatchEnd
  std::uint64_t buffers_in_use = 0;  // receive buffers that hold data not yet let go
  std::uint64_t free_buffers = 0;
  std::uint64_t free_contexts = 0;
  std::uint64_t pending_accepts = 0;  // accept operations with the system now
};

// Hooks as bits, for Server::WantedHooks.
enum Hook : unsigned {
  kHookEstablished = 1U << 0U,
  kHookRead = 1U << 1U,
  kHookWrite = 1U << 2U,
  kHookError = 1U << 3U,
  kHookClosing = 1U << 4U,
  kHookAll = (1U << 5U) - 1,
};

struct BackendInfo {
  std::string name;
  bool available = false;
  std::string reason;  // why not, in words a user can act on; "" when available
};

// The back-ends this library knows, on any system, best first.
std::vector<BackendInfo> Backends();

class Server {
 public:
  Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  // The server must be stopped: by now the derived class and its hooks are gone, so it is too
  // late to stop here. Call Shutdown in the destructor of the most derived class. A server that
  // still runs here ends the process with a message; so a hook, in which Shutdown does not wait,
  // must not destroy a server that runs.
  virtual ~Server();

  // Returns when clients can connect. On failure nothing is left behind. In OnStopped it fails.
  [[nodiscard]] Status Start(const Options& options);

  // Stops accepting, closes every connection gracefully, aborts what is left after `timeout`, joins
  // the workers. After it no hook runs, and the server can be started again. Idempotent; safe from
  // several threads. On a worker thread, of this server or of another one, it returns at once, and
  // the shutdown goes on behind it. It waits for hooks that are running: a hook that never returns
  // is never left behind.
  void Shutdown(Duration timeout = std::chrono::seconds(5));

  // Blocks until the server is stopped, or `timeout` has passed; true when it is stopped. On a
  // worker thread it does not block.
  bool WaitUntilStopped(std::optional<Duration> timeout = std::nullopt);

  // True exactly on the worker threads of all servers in this process, from OnWorkerBegin to
  // OnStopped.
  [[nodiscard]] static bool OnWorkerThread();

  // True from a Start that succeeded until the last worker has left.
  [[nodiscard]] bool running() const;
  // The address really bound; that of the last Start when not running.
  [[nodiscard]] Address address() const;
  // "io_uring", "epoll", "iocp"; "" before the first Start.
  [[nodiscard]] std::string backend() const;
  [[nodiscard]] std::size_t connection_count() const;
  [[nodiscard]] std::vector<ConnectionPtr> connections() const;
  [[nodiscard]] Stats stats() const;

  void CloseAllConnections();
  // Sends to every open connection but `exclude`; how many accepted it.
  std::size_t Broadcast(const void* data, std::size_t size, const Connection* exclude = nullptr);

 protected:
  // The hooks. All run on worker threads. An exception that leaves one ends that connection: it
  // goes to OnHookError, and one that leaves OnHookError aborts the connection.
  virtual void OnConnectionEstablished(Connection&) {}
  virtual void OnReadCompleted(Connection&, Buffer&) {}
  // Once for each accepted Send, with its length, when its last byte is with the system.
  virtual void OnWriteCompleted(Connection&, std::size_t) {}
  virtual void OnConnectionError(Connection&, Error) {}
  virtual void OnConnectionClosing(Connection&, CloseReason) {}
  // An exception left a hook. The default aborts the connection with kHookError.
  virtual void OnHookError(Connection& connection, Hook, const std::exception_ptr&) {
    connection.Abort(CloseReason::kHookError);
  }

  // For bindings and for servers that want to know more. These must not throw, WantedHooks aside:
  // an exception that leaves one of them ends the process. ---------------------------------------

  // The hooks worth calling; one that is left out costs nothing. Asked once, by Start, and what it
  // throws leaves Start, which then has started nothing.
  [[nodiscard]] virtual unsigned WantedHooks() const { return kHookAll; }
  // A worker is about to call hooks, several in a row, or has called the last of them. A language
  // with a lock of its own takes it and gives it back here.
  virtual void OnBatchBegin() {}
  virtual void OnBatchEnd() {}
  // Inside a batch, after the last hook of a connection whose user_data is not null.
  virtual void OnConnectionReleased(Connection&) {}
  // Something an operator must know (descriptors exhausted, say; at most once a minute). Inside a
  // batch.
  virtual void OnWarning(const std::string&) {}
  // First and last call on each worker thread, outside any batch.
  virtual void OnWorkerBegin() {}
  virtual void OnWorkerEnd() {}
  // The very last call of a run, on the last worker to leave, outside any batch: no connection is
  // left and `running` is false. The server may be destroyed in it.
  virtual void OnStopped() {}

 private:
  friend class Engine;
  friend class Worker;
  friend class Acceptor;

  struct Lifecycle;
  std::unique_ptr<Lifecycle> lifecycle_;
};

}  // namespace iocp
