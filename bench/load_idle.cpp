#include "load_idle.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "load_measurement.h"
#include "load_pattern.h"

namespace load {
namespace {

constexpr int kWaitMilliseconds = 5000;
// A server may still have something to do for its newest connections.
constexpr int kSettleMilliseconds = 300;

void Wait(int fd) {
  pollfd ready{fd, POLLIN, 0};
  if (poll(&ready, 1, kWaitMilliseconds) != 1) Fail(kRunError, "nothing came back");
}

// One echo on a new connection, which stays open until the process ends.
void Open(const Options& options, TlsClient* tls, const Pattern& pattern, std::size_t id,
          Stream& stream) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) Fail(kRunError, "socket: %s", ErrorText(errno).c_str());
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&options.server), sizeof options.server) != 0) {
    Fail(kRunError, "connection %zu: %s", id, ErrorText(errno).c_str());
  }
  stream.Begin(fd, tls, options.http);
  static std::vector<char> received(Pattern::kWindow);
  const std::size_t size = options.message_size();
  const std::size_t start = pattern.Start(id);
  std::size_t sent = 0;
  std::size_t came = 0;
  while (came < size) {
    if (sent < size) sent += stream.Send(pattern.At(start + sent), size - sent);
    if (!stream.more()) Wait(fd);
    const std::size_t got = stream.Receive(received.data(), received.size(), true);
    if (got > size - came || std::memcmp(received.data(), pattern.At(start + came), got) != 0) {
      Fail(kRunError, "connection %zu: the bytes that came back are not those sent", id);
    }
    came += got;
  }
}

}  // namespace

void RunIdle(const Options& options, TlsClient* tls) {
  const Pattern pattern(options);
  const ServerProcess server(options.server_pid);
  std::vector<Stream> streams(options.connections);
  const std::size_t first = options.connections / 4;
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (i == first) {
      poll(nullptr, 0, kSettleMilliseconds);
      before = server.ResidentKib();
    }
    Open(options, tls, pattern, i, streams[i]);
  }
  poll(nullptr, 0, kSettleMilliseconds);
  const std::uint64_t after = server.ResidentKib();
  const double grown = static_cast<double>(after) - static_cast<double>(before);
  std::printf("{\"mode\": \"idle\", \"connections\": %zu, \"server_rss_kib\": %" PRIu64
              ", \"kib_per_connection\": %.3f}\n",
              options.connections, after, grown / static_cast<double>(streams.size() - first));
}

}  // namespace load
