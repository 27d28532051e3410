// iocp_load: the load generator of the bench. It talks to an echo server on the loopback and prints
// one line of JSON. It shares nothing with the engine, and costs less per message than the servers
// it measures, so that what it measures is the server:
//
// - one thread, edge-triggered epoll that is registered once per connection and never changed;
// - one recv and one send per readiness; what is in flight is written in one piece, as a client
//   that pipelines does;
// - with TLS it pays as much as the server: the server's CPU time is the figure then;
// - messages with a framing are ready-made too, and come back as they were sent: it never has to
//   cut what it receives;
// - every byte is checked, by one memcmp against a ready-made pattern; --check-every lets some
//   receives be counted only, where to copy large messages would make the client the limit.
//
// It measures after a warm-up, reads the server's CPU clock and resident memory itself, at the two
// ends of the measured time, then waits for all that is in flight, so that a lost byte is seen.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "load_idle.h"
#include "load_measurement.h"
#include "load_options.h"
#include "load_pattern.h"
#include "load_stream.h"

namespace load {
namespace {

// Registered once for everything; edge-triggered, so that no call is needed to change it later.
void Register(int epoll, int fd, std::uint64_t id) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = id;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
    Fail(kRunError, "epoll_ctl: %s", ErrorText(errno).c_str());
  }
}

// Long-lived connections, each with the same number of messages in flight all the time.
class EchoRun {
 public:
  EchoRun(const Options& options, TlsClient* tls)
      : options_(options),
        tls_(tls),
        message_size_(options.message_size()),
        measurement_(options),
        pattern_(options),
        received_(Pattern::kWindow),
        connections_(options.connections),
        sent_at_(options.connections * options.in_flight) {}

  void Run() {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0) Fail(kRunError, "epoll_create1: %s", ErrorText(errno).c_str());
    for (std::size_t i = 0; i < connections_.size(); ++i) Open(i);
    const std::uint64_t begin = Now();
    measurement_.Begin(begin);
    for (std::size_t i = 0; i < connections_.size(); ++i) Issue(i, options_.in_flight, begin);
    waiting_ = connections_.size();
    std::vector<epoll_event> events(kMaxEvents);
    while (waiting_ > 0) {
      const int count =
          epoll_wait(epoll_, events.data(), kMaxEvents, measurement_.WaitMilliseconds(Now()));
      if (count < 0 && errno != EINTR) Fail(kRunError, "epoll_wait: %s", ErrorText(errno).c_str());
      for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        OnReady(static_cast<std::size_t>(event.data.u64), event.events);
      }
      measurement_.Tick(Now(), waiting_);
      if (measurement_.draining() && !draining_) BeginDrain();
    }
    for (const Connection& connection : connections_) close(connection.fd);
    measurement_.PrintJson();
  }

 private:
  struct Connection {
    int fd = -1;
    Stream stream;
    std::size_t send_position = 0;     // in the pattern
    std::size_t receive_position = 0;  // in the pattern
    std::size_t unsent = 0;            // bytes of issued messages that the system has not taken
    std::size_t outstanding = 0;       // bytes issued that have not come back
    std::size_t partial = 0;           // bytes of the message that is coming back
    std::size_t next_issued = 0;       // slots of sent_at_
    std::size_t next_answered = 0;
  };

  // Blocking, one after the other: a server is not measured by how it takes this.
  void Open(std::size_t id) {
    Connection& connection = connections_[id];
    connection.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection.fd < 0) Fail(kRunError, "socket: %s", ErrorText(errno).c_str());
    const timeval timeout{.tv_sec = kConnectTimeout / kSecond, .tv_usec = 0};
    setsockopt(connection.fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    const int on = 1;
    setsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(connection.fd, reinterpret_cast<const sockaddr*>(&options_.server),
                sizeof options_.server) != 0) {
      const std::string text = errno == EINPROGRESS ? "timed out" : ErrorText(errno);
      Fail(kRunError, "cannot connect to port %d (connection %zu of %zu): %s",
           ntohs(options_.server.sin_port), id + 1, connections_.size(), text.c_str());
    }
    connection.send_position = pattern_.Start(id);
    connection.receive_position = connection.send_position;
    connection.stream.Begin(connection.fd, tls_, options_.http);
    Register(epoll_, connection.fd, id);
  }

  void BeginDrain() {
    draining_ = true;
    waiting_ = 0;
    for (const Connection& connection : connections_) waiting_ += connection.outstanding > 0;
  }

  void Issue(std::size_t id, std::size_t count, std::uint64_t now) {
    Connection& connection = connections_[id];
    for (std::size_t i = 0; i < count; ++i) {
      sent_at_[id * options_.in_flight + connection.next_issued] = now;
      if (++connection.next_issued == options_.in_flight) connection.next_issued = 0;
    }
    connection.outstanding += count * message_size_;
    connection.unsent += count * message_size_;
    Flush(id);
  }

  void Flush(std::size_t id) {
    Connection& connection = connections_[id];
    while (connection.unsent > 0) {
      const std::size_t size = std::min(connection.unsent, Pattern::kWindow);
      const std::size_t count = connection.stream.Send(pattern_.At(connection.send_position), size);
      if (count == 0) return;
      connection.unsent -= count;
      connection.send_position = pattern_.Advance(connection.send_position, count);
    }
  }

  void OnReady(std::size_t id, std::uint32_t events) {
    Connection& connection = connections_[id];
    if ((events & EPOLLIN) != 0) {
      // An edge comes only once.
      do {
        Receive(id);
      } while (connection.stream.more());
    }
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
      Fail(kRunError, "connection %zu: closed by the server, %zu bytes short", id,
           connection.outstanding);
    }
    // With TLS the end of the handshake lets messages go.
    if ((events & EPOLLOUT) != 0) connection.stream.Flush();
    if (connection.unsent > 0) Flush(id);
  }

  void Receive(std::size_t id) {
    Connection& connection = connections_[id];
    const bool check = receives_++ % options_.check_every == 0;
    const std::size_t size = connection.stream.Receive(received_.data(), received_.size(), check);
    if (size == 0) return;
    if (size > connection.outstanding - connection.unsent) {
      Fail(kRunError, "connection %zu: more bytes came back than were sent", id);
    }
    if (check &&
        std::memcmp(received_.data(), pattern_.At(connection.receive_position), size) != 0) {
      Fail(kRunError, "connection %zu: the bytes that came back are not those sent", id);
    }
    connection.receive_position = pattern_.Advance(connection.receive_position, size);
    connection.outstanding -= size;
    connection.partial += size;
    if (connection.partial >= message_size_) Answered(id);
  }

  // At least one whole message came back: accounts for all that did, and sends as many.
  void Answered(std::size_t id) {
    Connection& connection = connections_[id];
    const std::uint64_t now = Now();
    std::size_t count = 0;
    for (; connection.partial >= message_size_; connection.partial -= message_size_, ++count) {
      measurement_.Record(sent_at_[id * options_.in_flight + connection.next_answered], now);
      if (++connection.next_answered == options_.in_flight) connection.next_answered = 0;
    }
    if (!draining_) {
      Issue(id, count, now);
    } else if (connection.outstanding == 0) {
      --waiting_;
    }
  }

  const Options& options_;
  TlsClient* const tls_;  // null without
  const std::size_t message_size_;
  Measurement measurement_;
  Pattern pattern_;
  std::vector<char> received_;
  std::vector<Connection> connections_;
  std::vector<std::uint64_t> sent_at_;
  std::size_t waiting_ = 0;  // connections that still wait for bytes
  std::uint64_t receives_ = 0;
  bool draining_ = false;
  int epoll_ = -1;
};

// Connections that live for one message; always the same number at once.
class ConnectRun {
 public:
  ConnectRun(const Options& options, TlsClient* tls)
      : options_(options),
        tls_(tls),
        message_size_(options.message_size()),
        measurement_(options),
        pattern_(options),
        received_(Pattern::kWindow),
        slots_(options.connections) {}

  void Run() {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0) Fail(kRunError, "epoll_create1: %s", ErrorText(errno).c_str());
    measurement_.Begin(Now());
    for (std::size_t i = 0; i < slots_.size(); ++i) Open(i);
    open_ = slots_.size();
    std::vector<epoll_event> events(kMaxEvents);
    while (open_ > 0) {
      const int count =
          epoll_wait(epoll_, events.data(), kMaxEvents, measurement_.WaitMilliseconds(Now()));
      if (count < 0 && errno != EINTR) Fail(kRunError, "epoll_wait: %s", ErrorText(errno).c_str());
      for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        OnReady(static_cast<std::size_t>(event.data.u64), event.events);
      }
      measurement_.Tick(Now(), open_);
    }
    measurement_.PrintJson();
  }

 private:
  struct Slot {
    int fd = -1;
    Stream stream;
    std::uint64_t started = 0;
    std::size_t start = 0;  // in the pattern
    std::size_t sent = 0;
    std::size_t received = 0;
  };

  void Open(std::size_t id) {
    Slot& slot = slots_[id];
    slot.started = Now();
    slot.start = pattern_.Start(opened_);
    slot.sent = 0;
    slot.received = 0;
    slot.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (slot.fd < 0) Fail(kRunError, "socket: %s", ErrorText(errno).c_str());
    // Closing first leaves this side in TIME_WAIT, a minute long: one address would be out of ports
    // within seconds, so the connections come from many addresses of the loopback in turn.
    sockaddr_in source{};
    source.sin_family = AF_INET;
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + static_cast<std::uint32_t>(opened_ % 200));
    const int on = 1;
    setsockopt(slot.fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(slot.fd, reinterpret_cast<const sockaddr*>(&source), sizeof source) != 0) {
      Fail(kRunError, "bind to a loopback address: %s", ErrorText(errno).c_str());
    }
    ++opened_;
    if (connect(slot.fd, reinterpret_cast<const sockaddr*>(&options_.server),
                sizeof options_.server) != 0 &&
        errno != EINPROGRESS) {
      Fail(kRunError, "cannot connect to port %d (connection number %" PRIu64 "): %s",
           ntohs(options_.server.sin_port), opened_, ErrorText(errno).c_str());
    }
    slot.stream.Begin(slot.fd, tls_, options_.http);
    Register(epoll_, slot.fd, id);
    Send(id);  // on the loopback it is connected by now, mostly; else EPOLLOUT reports it
  }

  void Send(std::size_t id) {
    Slot& slot = slots_[id];
    while (slot.sent < message_size_) {
      const std::size_t size = std::min(message_size_ - slot.sent, Pattern::kWindow);
      const std::size_t position = pattern_.Advance(slot.start, slot.sent);
      const std::size_t sent = slot.stream.Send(pattern_.At(position), size);
      if (sent == 0) return;
      slot.sent += sent;
    }
  }

  void OnReady(std::size_t id, std::uint32_t events) {
    Slot& slot = slots_[id];
    if ((events & EPOLLERR) != 0) {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(slot.fd, SOL_SOCKET, SO_ERROR, &error, &size);
      Fail(kRunError, "a connection broke after %zu of %zu bytes: %s", slot.received, message_size_,
           ErrorText(error).c_str());
    }
    if ((events & EPOLLIN) != 0) {
      do {
        Receive(id);
      } while (slot.stream.more());
    }
    if ((events & EPOLLOUT) != 0) slot.stream.Flush();
    if (slot.sent < message_size_) Send(id);
    if (slot.received == message_size_) {
      Finish(id);
    } else if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) {
      Fail(kRunError, "the server closed a connection after %zu of %zu bytes", slot.received,
           message_size_);
    }
  }

  void Receive(std::size_t id) {
    Slot& slot = slots_[id];
    const std::size_t size = slot.stream.Receive(received_.data(), received_.size(), true);
    if (size == 0) return;
    if (size > slot.sent - slot.received) {
      Fail(kRunError, "more bytes came back than were sent");
    }
    const std::size_t position = pattern_.Advance(slot.start, slot.received);
    if (std::memcmp(received_.data(), pattern_.At(position), size) != 0) {
      Fail(kRunError, "the bytes that came back are not those sent");
    }
    slot.received += size;
  }

  void Finish(std::size_t id) {
    Slot& slot = slots_[id];
    // The first connections had no session yet that they could go on with.
    if (options_.resume && !tls_->has_session()) {
      Fail(kRunError, "the server has given no session");
    }
    if (options_.resume && slot.stream.refused_session()) {
      Fail(kRunError, "the server has not resumed the session of connection number %" PRIu64,
           opened_);
    }
    slot.stream.End();
    close(slot.fd);
    measurement_.Record(slot.started, Now());
    if (measurement_.draining()) {
      --open_;
    } else {
      Open(id);
    }
  }

  const Options& options_;
  TlsClient* const tls_;  // null without
  const std::size_t message_size_;
  Measurement measurement_;
  Pattern pattern_;
  std::vector<char> received_;
  std::vector<Slot> slots_;
  std::size_t open_ = 0;
  std::uint64_t opened_ = 0;
  int epoll_ = -1;
};

void PinTo(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    Fail(kRunError, "--cpu %d: %s", cpu, ErrorText(errno).c_str());
  }
}

void RaiseDescriptorLimit(std::size_t connections) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < connections + 16) {
    Fail(kRunError, "%zu connections need more descriptors than this process may have (%ju)",
         connections, static_cast<std::uintmax_t>(limit.rlim_cur));
  }
}

}  // namespace
}  // namespace load

int main(int argc, char** argv) {
  using namespace load;
  const Options options = ParseOptions(argc, argv);
  RaiseDescriptorLimit(options.connections);
  if (options.cpu >= 0) PinTo(options.cpu);
  std::unique_ptr<TlsClient> tls;
  if (!options.authority.empty()) {
    tls = std::make_unique<TlsClient>(options.authority, options.resume);
  }
  if (options.idle_mode) {
    RunIdle(options, tls.get());
  } else if (options.connect_mode) {
    ConnectRun(options, tls.get()).Run();
  } else {
    EchoRun(options, tls.get()).Run();
  }
  return 0;
}
