// The options of Server::Start.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "iocp/framing.h"
#include "iocp/keep_alive.h"
#include "iocp/time.h"
#include "iocp/tls.h"

namespace iocp {

enum class AtCapacity : std::uint8_t {
  kRefuse,  // accept, reset at once, count as refused
  kWait,    // leave new clients in the system's backlog until there is room
};

enum class EstablishedOn : std::uint8_t {
  kConnect,  // OnConnectionEstablished at once: a server may speak first
  // OnConnectionEstablished with the first data, as in the original. A client that never speaks is
  // never reported.
  kFirstData,
};

// Bytes of a receive buffer. On Windows an idle connection has initial_reads of them with the
// system; elsewhere they come from a pool when there is something to receive.
#ifdef _WIN32
inline constexpr std::size_t kDefaultBufferSize = 16 * 1024;
#else
inline constexpr std::size_t kDefaultBufferSize = 64 * 1024;
#endif

// Start refuses an option that is out of its range, with a sentence that names it and the reason.
struct Options {
  // A name or an address; "" and "0.0.0.0" are all of IPv4, "::" all of both families.
  std::string host = "127.0.0.1";
  int port = 4567;               // 0 lets the system pick one: see Server::address
  std::string backend = "auto";  // "auto", "io_uring", "epoll", "iocp"; see Backends()
  int workers = 1;               // threads, 1 to 1024

  int max_connections = 2000;
  AtCapacity at_capacity = AtCapacity::kRefuse;
  int listen_backlog = 1024;
  int initial_accepts = 10;  // accepts posted ahead (Windows)
  int max_accepts = 100;     // the most accepts posted (Windows), or taken per turn (Linux)
  // Windows: reads posted for a connection at first, and again whenever data has filled one;
  // otherwise one. 0: a zero-byte read.
  int initial_reads = 4;

  std::size_t buffer_size = kDefaultBufferSize;  // bytes of a receive buffer, 512 to 16 MiB
  int max_free_buffers = 200;                    // receive buffers kept for reuse
  int max_free_contexts = 100;                   // connection objects kept for reuse

  // Bytes of memory that the system has refused to take so far; at or above it Send answers
  // kBacklogFull. Sends that were not offered to the system yet do not count, unless they take 16
  // times as much: a worker offers them at the end of its turn, and a send in a hook does so when
  // it finds the backlog at the limit. Each send that has not ended counts its unsent bytes and the
  // memory beside them. One that waits for its OnWriteCompleted counts in full. A copy and its
  // record of 48 bytes share a block of 256, 512, 1024, 2048 or 4096 bytes; a larger one has a
  // block of exactly its size. SharedBytes and a Buffer have a record of 256 bytes. If
  // OnWriteCompleted is wanted, every send counts at least 256 bytes. If not, an empty send counts
  // nothing. Unless max_pending_sends is set, a send of at most 1024 bytes behind another then
  // takes a block of 4096 bytes, and a send that fits into the rest of the block before it adds
  // nothing. The two marks below count in the same way.
  std::size_t send_backlog_limit = 1024 * 1024;
  // The most sends that have not ended, whether they were offered to the system or not.
  std::optional<int> max_pending_sends;
  std::size_t write_high_water = 64 * 1024;  // a connection with more to send is not read from
  std::size_t write_low_water = 16 * 1024;   // until it has at most this much
  // Whether the two marks above stop and resume reading. OnConnectionWritable follows them anyhow.
  bool flow_control = true;

  // How connections cut what they receive into messages, at first; null: they do not. See
  // Connection::SetFraming.
  FramingPtr framing;

  // A server's; none: connections have no TLS at first. OnConnectionEstablished comes when the
  // handshake is done. Until then the handshake_timeout of the Tls takes the place of
  // first_data_timeout, which counts from then on. See Server::SetTls and Connection::StartTls.
  Tls tls;

  EstablishedOn established_on = EstablishedOn::kConnect;
  std::optional<Duration> first_data_timeout = std::chrono::seconds(120);
  // Nothing was received, and nothing sent or taken by the peer, for this long. While reading is
  // paused, the bytes that the peer sends do not count.
  std::optional<Duration> idle_timeout;
  // Nothing was received for this long, whatever was sent. The time stands still while reading is
  // paused, by PauseReading or while more waits to be sent than the marks of flow control allow. It
  // does not apply once the peer has ended its stream. This and idle_timeout may differ for a
  // connection: see Connection::SetReceiveTimeout.
  std::optional<Duration> receive_timeout;
  // How long a message may take, from its first byte to its last. While reading is blocked the time
  // stands still. If bytes are at hand when it is up, the message gets it once more.
  std::optional<Duration> message_timeout;
  // Something was sent and the peer has taken no byte of it for this long. A peer that has taken a
  // part, and then no more, is closed after at most twice the time, by this and by idle_timeout.
  std::optional<Duration> write_timeout;
  Duration close_timeout = std::chrono::seconds(5);
  std::optional<KeepAlive> keepalive = KeepAlive{};
  bool no_delay = true;     // TCP_NODELAY
  bool reuse_port = false;  // SO_REUSEPORT: several processes share the port
  bool dual_stack = true;   // "::" takes IPv4 clients as well
};

}  // namespace iocp
