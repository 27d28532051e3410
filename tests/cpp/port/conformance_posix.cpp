// The conformance suite: what only a POSIX system has. Signals, privileged ports, descriptors to
// look at; and the one table of errors of its ports.
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "loopback.h"
#include "port/common/posix_net.h"

namespace iocp::testing {
namespace {

// Asks the kernel itself, not the port: a port that wrongly says that it cannot run is to be
// caught.
bool KernelAllowsUring() {
  utsname name{};
  int major = 0;
  if (::uname(&name) != 0 || std::sscanf(name.release, "%d", &major) != 1 || major < 6)
    return false;
#ifdef SYS_io_uring_setup
  alignas(8) char parameters[120]{};  // struct io_uring_params
  const long fd = ::syscall(SYS_io_uring_setup, 8, parameters);
  if (fd >= 0) ::close(static_cast<int>(fd));
  return fd >= 0;
#else
  return false;
#endif
}

}  // namespace

bool IsRequired(const PortKind& kind) {
  return std::string_view(kind.name) != "io_uring" || KernelAllowsUring();
}

std::vector<int> InitialReads() { return {PortOptions{}.initial_reads}; }

namespace {

// R9: signals ----------------------------------------------------------------------------------

std::atomic<int> signals_handled{0};

TEST_P(ConformanceTest, R09_SignalsInterruptNothing) {
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) { signals_handled.fetch_add(1); };  // and no SA_RESTART
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  signals_handled = 0;
  {
    PortDriver driver(world());
    ServerEnd& end = driver.Connect();
    const pthread_t worker = ::pthread_self();
    Posting done;
    std::thread sender([&] {
      constexpr int kSignals = 200;
      const auto give_up = std::chrono::steady_clock::now() + kPatience;
      for (int sent = 0; sent < kSignals && std::chrono::steady_clock::now() < give_up; ++sent) {
        ::pthread_kill(worker, SIGUSR1);
        // Each one is handled before the next, or several would be one.
        while (signals_handled.load() <= sent && std::chrono::steady_clock::now() < give_up) {
          std::this_thread::yield();
        }
      }
      driver.port().Post(done);
    });
    const std::size_t before_signals = driver.completions();
    const TimePoint give_up = driver.port().Now() + 2 * kPatience;
    while (driver.postings().empty() && driver.port().Now() < give_up) driver.Turn(give_up);
    sender.join();
    EXPECT_EQ(driver.postings().size(), 1U);
    EXPECT_EQ(driver.completions(), before_signals + 1) << "a signal made a completion";
    EXPECT_GE(signals_handled.load(), 200);
    // And a signal does not make a wait longer than it was to be.
    std::thread pest([&] {
      for (int i = 0; i < 100; ++i) {
        ::pthread_kill(worker, SIGUSR1);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    const TimePoint deadline = driver.port().Now() + std::chrono::milliseconds(50);
    while (driver.port().Now() < deadline) driver.Turn(deadline);
    EXPECT_LT(driver.port().Now() - deadline, std::chrono::milliseconds(500));
    end.peer_writing = Pattern(200'000, 1);
    EXPECT_TRUE(driver.Until([&] { return end.received.size() >= end.peer_writing.size(); }));
    EXPECT_TRUE(IsSame(end.received, end.peer_writing));
    pest.join();
  }
  ::sigaction(SIGUSR1, &before, nullptr);
}

// A worker that is slower than its clients for long: in each turn there is more to report than a
// batch holds, and every receive starts a send.
TEST_P(ConformanceTest, OverloadTakesNoMoreMemoryHoweverLong) {
  constexpr std::size_t kClients = 300;
  constexpr std::size_t kTurns = 200;
  PortDriver driver(world());
  driver.on_received = [&](ServerEnd& end) {
    end.received.clear();
    if (!end.sending) driver.Send(end, "y");
  };
  for (std::size_t i = 0; i < kClients; ++i) driver.Connect();
  const auto overload = [&] {
    for (std::size_t turn = 0; turn < kTurns; ++turn) {
      for (const auto& end : driver.ends()) {
        end->peer->Send("x");
        end->peer->Receive(4096);
      }
      driver.Turn(TimePoint::min());
    }
    const struct mallinfo2 heap = ::mallinfo2();
    return heap.uordblks + heap.hblkhd;
  };
  const std::size_t before = overload();
  if (before == 0) GTEST_SKIP() << "the heap is a sanitizer's, which does not count";
  EXPECT_LE(overload(), before + 256 * 1024);
}

TEST_P(ConformanceTest, ListenOnAPrivilegedPortFailsWithoutPrivileges) {
  int first_free = 1024;
  if (FILE* file = std::fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re")) {
    if (std::fscanf(file, "%d", &first_free) != 1) first_free = 1024;
    std::fclose(file);
  }
  if (first_free <= 1) GTEST_SKIP() << "this system has no privileged ports";
  // In a child, which can give up what root may.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr unsigned kNobody = 65534;
    if (::geteuid() == 0 &&
        (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) {
      std::_Exit(2);
    }
    ListenOptions options;
    options.host = "127.0.0.1";
    options.port = 1;
    ExpectListenFailure(world(), options, ErrorKind::kAccessDenied, EACCES, "bind", "127.0.0.1:1");
    std::_Exit(HasFailure() ? 1 : 0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "could not become another user";
  EXPECT_EQ(WEXITSTATUS(status), 0) << "see above";
}

TEST_P(ConformanceTest, ListenWithoutADescriptorLeftFails) {
  ListenOptions options;
  options.host = "127.0.0.1";
  NativeSocket listener = kNoSocket;
  Address bound;
  world().ExhaustDescriptors(true);
  const Status status = world().kind().listen(options, &listener, &bound);
  world().ExhaustDescriptors(false);
  EXPECT_EQ(status.error.kind, ErrorKind::kOutOfResources) << status.message;
  EXPECT_EQ(status.error.code, EMFILE);
  EXPECT_TRUE(Contains(status.message, "socket")) << status.message;
}

TEST_P(ConformanceTest, ListenTwiceOnOnePortWhereThatIsAskedFor) {
  ListenOptions options;
  options.host = "127.0.0.1";
  options.reuse_port = true;
  NativeSocket listeners[2] = {kNoSocket, kNoSocket};
  Address bound;
  for (NativeSocket& listener : listeners) {
    const Status status = world().kind().listen(options, &listener, &bound);
    ASSERT_TRUE(status.ok()) << status.message;
    options.port = bound.port;
  }
  for (const NativeSocket listener : listeners) world().kind().close_listener(listener);
}

int Option(NativeSocket handle, int level, int name) {
  int value = -1;
  socklen_t length = sizeof(value);
  ::getsockopt(static_cast<int>(handle), level, name, &value, &length);
  return value;
}

TEST_P(ConformanceTest, ListenOptionsReachTheConnections) {
  for (const bool on : {true, false}) {
    BufferPool* pool = BufferPool::Create(4096, 10);
    PortOptions port_options;
    port_options.pool = pool;
    ListenOptions options;
    options.host = "127.0.0.1";
    options.no_delay = on;
    if (on) options.keepalive = KeepAlive{std::chrono::seconds(7), std::chrono::milliseconds(1500)};
    port_options.no_delay = options.no_delay;
    port_options.keepalive = options.keepalive;
    auto port = world().kind().create(port_options);
    ASSERT_FALSE(port->Open());
    Socket listener;
    Address bound;
    ASSERT_TRUE(world().kind().listen(options, &listener.handle, &bound).ok());
    ASSERT_FALSE(port->Accept(listener));
    const auto peer = world().Connect(bound);
    Socket socket;
    Address local;
    Address remote;
    Completion completion;
    const TimePoint give_up = port->Now() + kPatience;
    while (completion.accepted == kNoSocket && port->Now() < give_up) {
      port->Wait(&completion, 1, kBatchBytes, give_up);
    }
    ASSERT_FALSE(port->Adopt(socket, completion.accepted, &local, &remote));
    EXPECT_EQ(Option(socket.handle, IPPROTO_TCP, TCP_NODELAY) != 0, on);
    EXPECT_EQ(Option(socket.handle, SOL_SOCKET, SO_KEEPALIVE) != 0, on);
    if (on) {
      EXPECT_EQ(Option(socket.handle, IPPROTO_TCP, TCP_KEEPIDLE), 7);
      EXPECT_EQ(Option(socket.handle, IPPROTO_TCP, TCP_KEEPINTVL), 2);  // whole seconds, upwards
    }
    // A child that somebody starts does not keep it open.
    for (const NativeSocket handle : {socket.handle, listener.handle}) {
      EXPECT_NE(::fcntl(static_cast<int>(handle), F_GETFD) & FD_CLOEXEC, 0);
    }
    port->Close(socket, true);
    port->Cancel(listener);
    completion = Completion{};
    while (port->Wait(&completion, 1, kBatchBytes, give_up) == 0 && port->Now() < give_up) {
    }
    EXPECT_TRUE(completion.last);
    const NativeSocket listening = listener.handle;
    port->Close(listener, false);
    world().kind().close_listener(listening);
    port.reset();
    pool->Close();
  }
}

// Parts that the POSIX ports share ---------------------------------------------------------------

TEST(PosixErrorsTest, OneClientsErrorIsNotExhaustion) {
  for (const int code : {ECONNABORTED, ECONNRESET, EPROTO, EPERM, EHOSTUNREACH}) {
    EXPECT_TRUE(IsOneClientsError(code)) << code;
    EXPECT_FALSE(IsExhaustion(code)) << code;
  }
  for (const int code : {EMFILE, ENFILE, ENOBUFS, ENOMEM}) {
    EXPECT_FALSE(IsOneClientsError(code)) << code;
    EXPECT_TRUE(IsExhaustion(code)) << code;
    EXPECT_EQ(ErrorFromCode(code).kind, ErrorKind::kOutOfResources) << code;
  }
  for (const int code : {EBADF, EINVAL, ENOTSOCK}) {
    EXPECT_FALSE(IsOneClientsError(code)) << code;
    EXPECT_FALSE(IsExhaustion(code)) << code;
  }
}

TEST(PosixErrorsTest, EveryErrnoIsAnErrorAndKeepsItsNumber) {
  EXPECT_FALSE(ErrorFromCode(0));
  for (int code = 1; code < 134; ++code) {
    const Error error = ErrorFromCode(code);
    EXPECT_TRUE(error) << code;
    EXPECT_EQ(error.code, code);
    EXPECT_NE(error.kind, ErrorKind::kEndOfStream) << code;
  }
  EXPECT_EQ(ErrorFromCode(ECONNRESET).kind, ErrorKind::kReset);
  EXPECT_EQ(ErrorFromCode(EPIPE).kind, ErrorKind::kReset);
  EXPECT_EQ(ErrorFromCode(ECANCELED).kind, ErrorKind::kCancelled);
  EXPECT_EQ(ErrorFromCode(ETIMEDOUT).kind, ErrorKind::kTimedOut);
}

TEST(AddressTest, IsMadeOfNoMoreBytesThanTheSystemGave) {
  for (const Address::Family family : {Address::Family::kIPv4, Address::Family::kIPv6}) {
    const Address whole = Loopback(family, 4567);
    sockaddr_storage storage;
    const socklen_t length = ToSockaddr(whole, &storage);
    // On the heap, of just that size: a sanitizer sees who looks behind it.
    for (socklen_t told = 0; told <= length; ++told) {
      const auto* const first = reinterpret_cast<const char*>(&storage);
      const std::vector<char> bytes(first, first + told);
      const Address address = AddressFrom(reinterpret_cast<const sockaddr*>(bytes.data()), told);
      EXPECT_EQ(address.family, told == length ? family : Address::Family::kNone) << told;
      EXPECT_EQ(address.Host(), told == length ? whole.Host() : "") << told;
    }
    // More than there is to look at.
    EXPECT_EQ(AddressFrom(reinterpret_cast<const sockaddr*>(&storage), sizeof(storage)).Host(),
              whole.Host());
  }
  sockaddr_storage local{};
  local.ss_family = AF_UNIX;
  EXPECT_EQ(AddressFrom(reinterpret_cast<const sockaddr*>(&local), sizeof(local)).family,
            Address::Family::kNone);
}

TEST(AddressTest, HostIsNumericAndHasItsZone) {
  Address address;
  EXPECT_EQ(address.Host(), "");
  EXPECT_EQ(Loopback(Address::Family::kIPv4, 1).Host(), "127.0.0.1");
  address = Loopback(Address::Family::kIPv6, 1);
  EXPECT_EQ(address.Host(), "::1");
  address.bytes[0] = 0xfe;
  address.bytes[1] = 0x80;
  address.scope = 1;  // the loopback interface is the first one
  EXPECT_EQ(address.Host(), "fe80::1%lo");
  address.scope = 999'999;  // an interface that is gone
  EXPECT_EQ(address.Host(), "fe80::1%999999");
}

}  // namespace
}  // namespace iocp::testing
