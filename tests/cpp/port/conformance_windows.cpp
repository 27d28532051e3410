// The conformance suite: what only Windows has.
#include "loopback.h"
#include "port/common/windows_net.h"

namespace iocp::testing {

bool IsRequired(const PortKind&) { return true; }
std::vector<int> InitialReads() { return {0, 1, 4, 16}; }

namespace {

TEST_P(ConformanceTest, ListenForReuseOfAPortIsRefused) {
  ListenOptions options;
  options.host = "127.0.0.1";
  options.reuse_port = true;
  NativeSocket listener = kNoSocket;
  Address bound;
  const Status status = world().kind().listen(options, &listener, &bound);
  EXPECT_EQ(status.problem, Status::Problem::kBadOption);
  EXPECT_TRUE(Contains(status.message, "reuse_port")) << status.message;
  EXPECT_EQ(listener, kNoSocket);
}

TEST_P(ConformanceTest, NobodyElseCanListenWhereAServerDoes) {
  PortDriver driver(world());
  const ClientSocket thief = OpenSocket(AF_INET);
  const DWORD on = 1;
  ASSERT_EQ(
      ::setsockopt(thief, SOL_SOCKET, SO_REUSEADDR, reinterpret_cast<const char*>(&on), sizeof(on)),
      0);
  sockaddr_storage storage;
  const socklen_t length = ToSockaddr(driver.bound(), &storage);
  EXPECT_NE(::bind(thief, reinterpret_cast<const sockaddr*>(&storage), length), 0);
  CloseSocket(thief);
}

int Option(NativeSocket handle, int level, int name) {
  DWORD value = 99;
  int length = sizeof(value);
  ::getsockopt(static_cast<SOCKET>(handle), level, name, reinterpret_cast<char*>(&value), &length);
  return static_cast<int>(value & 0xff);
}

TEST_P(ConformanceTest, ConnectionsAreSetUpAndNotInherited) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  EXPECT_EQ(Option(end.handle, IPPROTO_TCP, TCP_NODELAY), 1);
  for (const NativeSocket handle : {end.handle, driver.listener().handle}) {
    DWORD flags = HANDLE_FLAG_INHERIT;
    ASSERT_TRUE(::GetHandleInformation(reinterpret_cast<HANDLE>(handle), &flags));
    EXPECT_EQ(flags & HANDLE_FLAG_INHERIT, 0U);
  }
}

Address AddressOf(NativeSocket handle, decltype(&::getpeername) ask) {
  sockaddr_storage storage{};
  int length = sizeof(storage);
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  EXPECT_EQ(ask(static_cast<SOCKET>(handle), address, &length), 0) << ::WSAGetLastError();
  return AddressFrom(address, length);
}

// An accepted socket can do this only after SO_UPDATE_ACCEPT_CONTEXT.
TEST_P(ConformanceTest, AnAcceptedSocketKnowsItsEndsAndCanEndItsStream) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  EXPECT_EQ(AddressOf(end.handle, &::getpeername).port, end.peer->port());
  EXPECT_EQ(AddressOf(end.handle, &::getsockname).port, driver.bound().port);
  EXPECT_EQ(::shutdown(static_cast<SOCKET>(end.handle), SD_SEND), 0) << ::WSAGetLastError();
  EXPECT_TRUE(driver.Until([&] {
    end.peer->Receive(1);
    return end.peer->state() == Peer::State::kEnded;
  }));
}

TEST(WindowsAddressTest, IsMadeOfNoMoreBytesThanTheSystemGave) {
  for (const Address::Family family : {Address::Family::kIPv4, Address::Family::kIPv6}) {
    const Address whole = Loopback(family, 4567);
    sockaddr_storage storage;
    const socklen_t length = ToSockaddr(whole, &storage);
    const auto* const from = reinterpret_cast<const sockaddr*>(&storage);
    for (socklen_t told = -1; told < length; ++told) {
      EXPECT_EQ(AddressFrom(from, told).family, Address::Family::kNone) << told;
    }
    EXPECT_EQ(AddressFrom(from, length).Host(), whole.Host());
  }
  EXPECT_EQ(AddressFrom(nullptr, 0).family, Address::Family::kNone);
}

TEST(WindowsErrorsTest, EveryCodeIsAnErrorAndKeepsItsNumber) {
  EXPECT_FALSE(ErrorFromCode(0));
  for (int code = 1; code < 12'000; ++code) {
    const Error error = ErrorFromCode(code);
    EXPECT_TRUE(error) << code;
    EXPECT_EQ(error.code, code);
    EXPECT_NE(error.kind, ErrorKind::kEndOfStream) << code;
  }
  EXPECT_EQ(ErrorFromCode(WSAECONNRESET).kind, ErrorKind::kReset);
  EXPECT_EQ(ErrorFromCode(ERROR_NETNAME_DELETED).kind, ErrorKind::kReset);
  EXPECT_EQ(ErrorFromCode(WSAECONNABORTED).kind, ErrorKind::kReset);
  EXPECT_EQ(ErrorFromCode(WSA_OPERATION_ABORTED).kind, ErrorKind::kCancelled);
  EXPECT_EQ(ErrorFromCode(WSAETIMEDOUT).kind, ErrorKind::kTimedOut);
  EXPECT_EQ(ErrorFromCode(ERROR_SEM_TIMEOUT).kind, ErrorKind::kTimedOut);
  EXPECT_EQ(ErrorFromCode(WSAENOBUFS).kind, ErrorKind::kOutOfResources);
  EXPECT_EQ(ErrorFromCode(WSAEMFILE).kind, ErrorKind::kOutOfResources);
}

}  // namespace
}  // namespace iocp::testing
