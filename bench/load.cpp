// iocp_load: the load generator of the bench. It talks to an echo server on the loopback and prints
// one line of JSON. It shares nothing with the engine, and costs less per message than the servers
// it measures, so that what it measures is the server:
//
// - one thread, edge-triggered epoll that is registered once per connection and never changed;
// - one recv and one send per readiness; what is in flight is written in one piece, as a client
//   that pipelines does;
// - every byte is checked, by one memcmp against a ready-made pattern; --check-every lets some
//   receives be counted only, where to copy large messages would make the client the limit.
//
// It measures after a warm-up, reads the server's CPU clock and resident memory itself, at the two
// ends of the measured time, then waits for all that is in flight, so that a lost byte is seen.
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <system_error>
#include <vector>

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kConnectTimeout = 5 * kSecond;
constexpr std::uint64_t kStallTimeout = 5 * kSecond;
constexpr int kMaxEvents = 1024;

[[noreturn]] [[gnu::format(printf, 2, 3)]] void Fail(int exit_code, const char* format, ...) {
  std::fputs("iocp_load: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::exit(exit_code);
}

constexpr int kRunError = 1;
constexpr int kUsageError = 2;

std::string ErrorText(int error) { return std::generic_category().message(error); }

std::uint64_t Clock(clockid_t clock) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond +
         static_cast<std::uint64_t>(time.tv_nsec);
}

std::uint64_t Now() { return Clock(CLOCK_MONOTONIC); }

struct Options {
  sockaddr_in server{};
  bool connect_mode = false;
  std::size_t connections = 64;
  std::size_t bytes = 64;
  std::size_t in_flight = 1;
  std::size_t check_every = 1;
  std::uint64_t duration = 2 * kSecond;
  std::uint64_t warm_up = kSecond / 2;
  int cpu = -1;
  pid_t server_pid = 0;
};

// Log-linear buckets as in HdrHistogram: 128 per power of two, so a value is off by less than 1 %.
class Histogram {
 public:
  void Record(std::uint64_t value) {
    ++counts_[Index(value)];
    ++total_;
    max_ = std::max(max_, value);
  }

  void Clear() {
    counts_.fill(0);
    total_ = 0;
    max_ = 0;
  }

  [[nodiscard]] std::uint64_t total() const { return total_; }
  [[nodiscard]] std::uint64_t max() const { return max_; }

  // The value that the share `quantile` of all values does not exceed; 0 when there is none.
  [[nodiscard]] std::uint64_t Quantile(double quantile) const {
    const auto wanted =
        static_cast<std::uint64_t>(quantile * static_cast<double>(total_) + 0.999999);
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= wanted && seen > 0) return std::min(Middle(i), max_);
    }
    return max_;
  }

 private:
  static constexpr unsigned kSubBits = 7;
  static constexpr std::size_t kSubBuckets = std::size_t{1} << kSubBits;
  static constexpr std::uint64_t kMaxValue = (std::uint64_t{1} << 40U) - 1;  // 18 minutes

  static std::size_t Index(std::uint64_t value) {
    value = std::min(value, kMaxValue);
    const auto width = static_cast<unsigned>(std::bit_width(value));
    const unsigned shift = width > kSubBits + 1 ? width - kSubBits - 1 : 0;
    return shift * kSubBuckets + static_cast<std::size_t>(value >> shift);
  }

  static std::uint64_t Middle(std::size_t index) {
    if (index < 2 * kSubBuckets) return index;
    const std::size_t shift = index / kSubBuckets - 1;
    const std::uint64_t low = static_cast<std::uint64_t>(index - shift * kSubBuckets) << shift;
    return low + (std::uint64_t{1} << shift) / 2;
  }

  std::array<std::uint64_t, (40 - kSubBits + 1) * kSubBuckets> counts_{};
  std::uint64_t total_ = 0;
  std::uint64_t max_ = 0;
};

// The bytes that a connection sends and must get back: pseudo-random, repeated every kPeriod bytes,
// each connection starting somewhere else, so that bytes that are lost, doubled, swapped or another
// connection's do not match. The period is prime: no message size is a multiple of it. It is short
// so that the pattern stays in the cache; any piece up to kWindow bytes is contiguous in memory.
class Pattern {
 public:
  static constexpr std::size_t kPeriod = 16381;
  static constexpr std::size_t kWindow = 256 * 1024;

  Pattern() : bytes_(kPeriod + kWindow) {
    std::uint64_t state = 0x9E3779B97F4A7C15U;
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      state ^= state << 13U;
      state ^= state >> 7U;
      state ^= state << 17U;
      bytes_[i] = i < kPeriod ? static_cast<char>(state >> 32U) : bytes_[i - kPeriod];
    }
  }

  static std::size_t Start(std::uint64_t connection) {
    return static_cast<std::size_t>(connection * 7919 % kPeriod);
  }

  static std::size_t Advance(std::size_t position, std::size_t count) {
    position += count;
    return position < kPeriod ? position : position % kPeriod;
  }

  [[nodiscard]] const char* At(std::size_t position) const { return bytes_.data() + position; }

 private:
  std::vector<char> bytes_;
};

// The measured server's CPU clock (all its threads, in nanoseconds) and memory.
class ServerProcess {
 public:
  explicit ServerProcess(pid_t pid) : pid_(pid) {
    if (pid_ == 0) return;
    const int error = clock_getcpuclockid(pid_, &clock_);
    if (error != 0) Fail(kRunError, "no process %d to measure: %s", pid_, ErrorText(error).c_str());
  }

  [[nodiscard]] std::uint64_t CpuTime() const { return pid_ == 0 ? 0 : Clock(clock_); }

  [[nodiscard]] std::uint64_t ResidentKib() const {
    if (pid_ == 0) return 0;
    const std::string path = "/proc/" + std::to_string(pid_) + "/statm";
    std::FILE* file = std::fopen(path.c_str(), "re");
    if (file == nullptr) return 0;
    std::uint64_t pages = 0;
    if (std::fscanf(file, "%*u %" SCNu64, &pages) != 1) pages = 0;
    std::fclose(file);
    return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) / 1024;
  }

 private:
  pid_t pid_;
  clockid_t clock_{};
};

// Warm-up, measured time, drain; and the figures of the measured time.
class Measurement {
 public:
  explicit Measurement(const Options& options) : options_(options), server_(options.server_pid) {}

  void Begin(std::uint64_t now) {
    phase_end_ = now + options_.warm_up;
    last_progress_ = now;
  }

  [[nodiscard]] bool draining() const { return phase_ == Phase::kDrain; }

  void Record(std::uint64_t started, std::uint64_t now) {
    if (phase_ == Phase::kMeasure) latencies_.Record(now - started);
    progress_ = true;
  }

  // Between two batches of events: moves to the next phase when it is time; fails when nothing came
  // back for long. `waiting` is the number of connections that wait for something.
  void Tick(std::uint64_t now, std::size_t waiting) {
    if (progress_) {
      progress_ = false;
      last_progress_ = now;
    } else if (now - last_progress_ > kStallTimeout) {
      Fail(kRunError, "nothing came back for %" PRIu64 " s; %zu connections are waiting",
           kStallTimeout / kSecond, waiting);
    }
    if (phase_ != Phase::kDrain && now >= phase_end_) NextPhase(now);
  }

  [[nodiscard]] int WaitMilliseconds(std::uint64_t now) const {
    std::uint64_t until = last_progress_ + kStallTimeout;
    if (phase_ != Phase::kDrain) until = std::min(until, phase_end_);
    return until > now ? static_cast<int>((until - now) / 1'000'000) + 1 : 0;
  }

  void PrintJson() const {
    const double seconds = Seconds(ended_ - started_);
    const auto requests = static_cast<double>(latencies_.total());
    std::printf(
        "{\"mode\": \"%s\", \"connections\": %zu, \"bytes\": %zu, \"in_flight\": %zu, "
        "\"seconds\": %.6f, \"requests\": %" PRIu64
        ", \"requests_per_second\": %.1f, "
        "\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, "
        "\"load_cpu\": %.4f, \"server_cpu\": %.4f, \"server_cpu_us_per_request\": %.4f, "
        "\"server_rss_kib\": %" PRIu64 "}\n",
        options_.connect_mode ? "connect" : "echo", options_.connections, options_.bytes,
        options_.in_flight, seconds, latencies_.total(), requests / seconds, Quantile(0.5),
        Quantile(0.99), Quantile(0.999), static_cast<double>(latencies_.max()) / 1e3,
        Seconds(own_cpu_) / seconds, Seconds(server_cpu_) / seconds,
        Seconds(server_cpu_) * 1e6 / std::max(requests, 1.0), resident_kib_);
  }

 private:
  enum class Phase : std::uint8_t { kWarmUp, kMeasure, kDrain };

  static double Seconds(std::uint64_t nanoseconds) {
    return static_cast<double>(nanoseconds) / 1e9;
  }

  [[nodiscard]] double Quantile(double quantile) const {
    return static_cast<double>(latencies_.Quantile(quantile)) / 1e3;
  }

  void NextPhase(std::uint64_t now) {
    if (phase_ == Phase::kWarmUp) {
      phase_ = Phase::kMeasure;
      phase_end_ = now + options_.duration;
      started_ = now;
      server_cpu_ = server_.CpuTime();
      own_cpu_ = Clock(CLOCK_PROCESS_CPUTIME_ID);
    } else {
      phase_ = Phase::kDrain;
      ended_ = now;
      server_cpu_ = server_.CpuTime() - server_cpu_;
      own_cpu_ = Clock(CLOCK_PROCESS_CPUTIME_ID) - own_cpu_;
      resident_kib_ = server_.ResidentKib();
      if (latencies_.total() == 0) Fail(kRunError, "no echo came back in the measured time");
    }
  }

  const Options& options_;
  ServerProcess server_;
  Histogram latencies_;
  Phase phase_ = Phase::kWarmUp;
  std::uint64_t phase_end_ = 0;
  std::uint64_t last_progress_ = 0;
  bool progress_ = false;
  std::uint64_t started_ = 0;
  std::uint64_t ended_ = 0;
  std::uint64_t own_cpu_ = 0;
  std::uint64_t server_cpu_ = 0;
  std::uint64_t resident_kib_ = 0;
};

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
  explicit EchoRun(const Options& options)
      : options_(options),
        measurement_(options),
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
    connection.send_position = Pattern::Start(id);
    connection.receive_position = connection.send_position;
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
    connection.outstanding += count * options_.bytes;
    connection.unsent += count * options_.bytes;
    Flush(id);
  }

  void Flush(std::size_t id) {
    Connection& connection = connections_[id];
    while (connection.unsent > 0) {
      const std::size_t size = std::min(connection.unsent, Pattern::kWindow);
      const ssize_t sent = send(connection.fd, pattern_.At(connection.send_position), size,
                                MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0) {
        if (errno == EAGAIN) return;
        Fail(kRunError, "connection %zu: send: %s", id, ErrorText(errno).c_str());
      }
      const auto count = static_cast<std::size_t>(sent);
      connection.unsent -= count;
      connection.send_position = Pattern::Advance(connection.send_position, count);
    }
  }

  void OnReady(std::size_t id, std::uint32_t events) {
    const Connection& connection = connections_[id];
    if ((events & EPOLLIN) != 0) {
      // A full read may have left something, and an edge comes only once.
      while (Receive(id) == received_.size()) {
      }
    }
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
      Fail(kRunError, "connection %zu: closed by the server, %zu bytes short", id,
           connection.outstanding);
    }
    if ((events & EPOLLOUT) != 0 && connection.unsent > 0) Flush(id);
  }

  std::size_t Receive(std::size_t id) {
    Connection& connection = connections_[id];
    const bool check = receives_++ % options_.check_every == 0;
    // With MSG_TRUNC the bytes are dropped and only counted, as TCP on Linux does it.
    const ssize_t result = recv(connection.fd, received_.data(), received_.size(),
                                check ? MSG_DONTWAIT : MSG_DONTWAIT | MSG_TRUNC);
    if (result < 0) {
      if (errno == EAGAIN) return 0;
      Fail(kRunError, "connection %zu: recv: %s", id, ErrorText(errno).c_str());
    }
    const auto size = static_cast<std::size_t>(result);
    if (size == 0) return 0;  // reported by its event
    if (size > connection.outstanding - connection.unsent) {
      Fail(kRunError, "connection %zu: more bytes came back than were sent", id);
    }
    if (check &&
        std::memcmp(received_.data(), pattern_.At(connection.receive_position), size) != 0) {
      Fail(kRunError, "connection %zu: the bytes that came back are not those sent", id);
    }
    connection.receive_position = Pattern::Advance(connection.receive_position, size);
    connection.outstanding -= size;
    connection.partial += size;
    if (connection.partial >= options_.bytes) Answered(id);
    return size;
  }

  // At least one whole message came back: accounts for all that did, and sends as many.
  void Answered(std::size_t id) {
    Connection& connection = connections_[id];
    const std::uint64_t now = Now();
    std::size_t count = 0;
    for (; connection.partial >= options_.bytes; connection.partial -= options_.bytes, ++count) {
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
  explicit ConnectRun(const Options& options)
      : options_(options),
        measurement_(options),
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
    std::uint64_t started = 0;
    std::size_t start = 0;  // in the pattern
    std::size_t sent = 0;
    std::size_t received = 0;
  };

  void Open(std::size_t id) {
    Slot& slot = slots_[id];
    slot.started = Now();
    slot.start = Pattern::Start(opened_);
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
    Register(epoll_, slot.fd, id);
    Send(id);  // on the loopback it is connected by now, mostly; else EPOLLOUT tells
  }

  void Send(std::size_t id) {
    Slot& slot = slots_[id];
    while (slot.sent < options_.bytes) {
      const std::size_t size = std::min(options_.bytes - slot.sent, Pattern::kWindow);
      const std::size_t position = Pattern::Advance(slot.start, slot.sent);
      const ssize_t sent = send(slot.fd, pattern_.At(position), size, MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno == EAGAIN || errno == ENOTCONN) return;
        Fail(kRunError, "connect or send: %s", ErrorText(errno).c_str());
      }
      slot.sent += static_cast<std::size_t>(sent);
    }
  }

  void OnReady(std::size_t id, std::uint32_t events) {
    Slot& slot = slots_[id];
    if ((events & EPOLLERR) != 0) {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(slot.fd, SOL_SOCKET, SO_ERROR, &error, &size);
      Fail(kRunError, "a connection broke after %zu of %zu bytes: %s", slot.received,
           options_.bytes, ErrorText(error).c_str());
    }
    if (slot.sent < options_.bytes && (events & EPOLLOUT) != 0) Send(id);
    if ((events & EPOLLIN) != 0) {
      while (Receive(id)) {
      }
    }
    if (slot.received == options_.bytes) {
      Finish(id);
    } else if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) {
      Fail(kRunError, "the server closed a connection after %zu of %zu bytes", slot.received,
           options_.bytes);
    }
  }

  // True when there may be more to read.
  bool Receive(std::size_t id) {
    Slot& slot = slots_[id];
    const ssize_t result = recv(slot.fd, received_.data(), received_.size(), 0);
    if (result < 0) {
      if (errno == EAGAIN) return false;
      Fail(kRunError, "recv: %s", ErrorText(errno).c_str());
    }
    const auto size = static_cast<std::size_t>(result);
    if (size == 0) return false;  // reported by its event
    if (size > slot.sent - slot.received) {
      Fail(kRunError, "more bytes came back than were sent");
    }
    const std::size_t position = Pattern::Advance(slot.start, slot.received);
    if (std::memcmp(received_.data(), pattern_.At(position), size) != 0) {
      Fail(kRunError, "the bytes that came back are not those sent");
    }
    slot.received += size;
    return size == received_.size() && slot.received < options_.bytes;
  }

  void Finish(std::size_t id) {
    close(slots_[id].fd);
    measurement_.Record(slots_[id].started, Now());
    if (measurement_.draining()) {
      --open_;
    } else {
      Open(id);
    }
  }

  const Options& options_;
  Measurement measurement_;
  Pattern pattern_;
  std::vector<char> received_;
  std::vector<Slot> slots_;
  std::size_t open_ = 0;
  std::uint64_t opened_ = 0;
  int epoll_ = -1;
};

constexpr const char* kUsage =
    "usage: iocp_load --port N [options]\n"
    "\n"
    "Measures an echo server on the loopback and prints one line of JSON.\n"
    "\n"
    "  --host ADDRESS      127.0.0.1; an address in 127.0.0.0/8\n"
    "  --port N            the server's port\n"
    "  --connections N     at once (64)\n"
    "  --bytes N           of a message (64)\n"
    "  --in-flight N       messages per connection (1)\n"
    "  --check-every N     look at the bytes of one receive in N, count those of the others (1)\n"
    "  --connect           each connection lives for one message\n"
    "  --seconds S         measured time (2)\n"
    "  --warm-up S         before it (0.5)\n"
    "  --cpu N             run on this CPU only\n"
    "  --server-pid PID    also report the server's CPU time and memory\n";

template <typename Number>
Number ParseNumber(const char* option, const char* text, Number min, Number max) {
  Number value{};
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  // Written so that a NaN is refused as well.
  if (error != std::errc{} || stop != end || !(value >= min && value <= max)) {
    Fail(kUsageError, "--%s %s: a number from %s to %s is needed", option, text,
         std::to_string(min).c_str(), std::to_string(max).c_str());
  }
  return value;
}

std::uint64_t ParseSeconds(const char* option, const char* text, double min) {
  return static_cast<std::uint64_t>(ParseNumber(option, text, min, 600.0) *
                                    static_cast<double>(kSecond));
}

void ParseHost(const char* text, sockaddr_in& address) {
  if (inet_pton(AF_INET, text, &address.sin_addr) != 1) {
    Fail(kUsageError, "--host %s: a numeric IPv4 address is needed", text);
  }
  if (ntohl(address.sin_addr.s_addr) >> 24U != 127) {
    Fail(kUsageError, "--host %s: refused, only loopback addresses (127.0.0.0/8) are measured",
         text);
  }
}

Options ParseOptions(int argc, char** argv) {
  static constexpr std::array<option, 13> kLongOptions = {{
      {"host", required_argument, nullptr, 'h'},
      {"port", required_argument, nullptr, 'p'},
      {"connections", required_argument, nullptr, 'c'},
      {"bytes", required_argument, nullptr, 'b'},
      {"in-flight", required_argument, nullptr, 'f'},
      {"check-every", required_argument, nullptr, 'k'},
      {"connect", no_argument, nullptr, 'C'},
      {"seconds", required_argument, nullptr, 's'},
      {"warm-up", required_argument, nullptr, 'w'},
      {"cpu", required_argument, nullptr, 'u'},
      {"server-pid", required_argument, nullptr, 'P'},
      {"help", no_argument, nullptr, '?'},
      {nullptr, 0, nullptr, 0},
  }};
  Options options;
  options.server.sin_family = AF_INET;
  options.server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int which = 0;
  int index = 0;
  while ((which = getopt_long(argc, argv, "", kLongOptions.data(), &index)) != -1) {
    const char* name = which == '?' ? "" : kLongOptions[static_cast<std::size_t>(index)].name;
    switch (which) {
      case 'h':
        ParseHost(optarg, options.server);
        break;
      case 'p':
        options.server.sin_port = htons(ParseNumber<std::uint16_t>(name, optarg, 1, 65535));
        break;
      case 'c':
        options.connections = ParseNumber<std::size_t>(name, optarg, 1, 100'000);
        break;
      case 'b':
        options.bytes = ParseNumber<std::size_t>(name, optarg, 1, 16'777'216);
        break;
      case 'f':
        options.in_flight = ParseNumber<std::size_t>(name, optarg, 1, 4096);
        break;
      case 'k':
        options.check_every = ParseNumber<std::size_t>(name, optarg, 1, 1024);
        break;
      case 'C':
        options.connect_mode = true;
        break;
      case 's':
        options.duration = ParseSeconds(name, optarg, 0.01);
        break;
      case 'w':
        options.warm_up = ParseSeconds(name, optarg, 0.0);
        break;
      case 'u':
        options.cpu = ParseNumber(name, optarg, 0, CPU_SETSIZE - 1);
        break;
      case 'P':
        options.server_pid = ParseNumber<pid_t>(name, optarg, 1, 1 << 30);
        break;
      default:
        std::fputs(kUsage, stderr);
        std::exit(kUsageError);
    }
  }
  if (optind != argc) Fail(kUsageError, "unexpected argument: %s", argv[optind]);
  if (options.server.sin_port == 0) Fail(kUsageError, "--port is needed");
  if (options.connect_mode && options.in_flight != 1) {
    Fail(kUsageError, "--connect has one message per connection, so no --in-flight");
  }
  return options;
}

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

int main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  RaiseDescriptorLimit(options.connections);
  if (options.cpu >= 0) PinTo(options.cpu);
  if (options.connect_mode) {
    ConnectRun(options).Run();
  } else {
    EchoRun(options).Run();
  }
  return 0;
}
