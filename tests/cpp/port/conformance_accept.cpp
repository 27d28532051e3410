// The conformance suite, R8 continued: several listeners, several ports, and a port that cannot
// begin. On every port, the simulated one included.
#include <memory>
#include <vector>

#include "port_harness.h"

namespace iocp::testing {
namespace {

TEST_P(ConformanceTest, R08_APortAcceptsOnSeveralListeners) {
  PortDriver driver(world());
  ServerListener& first = driver.listener();
  ServerListener& second = driver.Listen();
  driver.Accept(second);
  EXPECT_GT(driver.port().pending_accepts(), 1);
  std::vector<ServerEnd*> ends;
  for (int i = 0; i < 20; ++i) {
    const ServerListener& listener = i % 3 == 0 ? second : first;
    ServerEnd* const end = driver.Meet(driver.Dial(listener));
    ASSERT_NE(end, nullptr);
    EXPECT_EQ(end->local.port, listener.bound.port);
    ends.push_back(end);
  }
  EXPECT_EQ(first.accepts, 13U);
  EXPECT_EQ(second.accepts, 7U);
  for (ServerEnd* const end : ends) end->peer_writing = "hello";
  for (ServerEnd* const end : ends) {
    EXPECT_TRUE(driver.Until([&] { return end->received == "hello"; }));
  }
}

TEST_P(ConformanceTest, R08_AListenerThatIsPausedOrEndsLeavesTheOtherAlone) {
  PortDriver driver(world());
  ServerListener& other = driver.Listen();
  driver.Accept(other);
  driver.port().Pause(driver.listener());
  EXPECT_TRUE(driver.Settle());
  for (int i = 0; i < 10; ++i) ASSERT_NE(driver.Meet(driver.Dial(other)), nullptr);
  driver.port().Resume(driver.listener());
  ASSERT_NE(driver.Meet(driver.Dial(driver.listener())), nullptr);

  driver.CancelAccept();
  ASSERT_TRUE(driver.Until([&] { return !driver.accepting(); }));
  EXPECT_TRUE(other.accepting);
  EXPECT_GT(driver.port().pending_accepts(), 0);
  driver.CloseListener(driver.listener());
  EXPECT_EQ(world().Connect(driver.bound()), nullptr) << "somebody still listens";
  for (int i = 0; i < 10; ++i) ASSERT_NE(driver.Meet(driver.Dial(other)), nullptr);
}

// The gate answers for each listener by itself.
TEST_P(ConformanceTest, R08_AGateThatIsClosedForOneListenerIsOpenForAnother) {
  struct OneOnly final : AcceptGate {
    bool Enter(Socket& listener) override { return &listener != closed_for; }
    void Leave() override {}
    Socket* closed_for = nullptr;
  } gate;
  DriverOptions options;
  options.gate = &gate;
  options.accept = false;
  PortDriver driver(world(), options);
  ServerListener& other = driver.Listen();
  gate.closed_for = &driver.listener();
  driver.Accept(driver.listener());
  driver.Accept(other);
  auto waits = driver.Dial(driver.listener());
  for (int i = 0; i < 10; ++i) ASSERT_NE(driver.Meet(driver.Dial(other)), nullptr);
  EXPECT_EQ(driver.listener().accepts, 0U);
  gate.closed_for = nullptr;
  driver.port().Resume(driver.listener());
  EXPECT_NE(driver.Meet(std::move(waits)), nullptr);
}

TEST_P(ConformanceTest, R08_SeveralPortsAcceptOnOneListener) {
  PortDriver first(world());
  if (first.port().shared()) GTEST_SKIP() << "such a port has several workers instead";
  PortDriver second(world());
  ServerListener& shared = second.Share(first.listener());
  second.Accept(shared);
  ServerListener& own = first.listener();

  // A port whose worker is busy keeps nobody from the other.
  std::vector<std::unique_ptr<Peer>> peers;
  for (std::size_t i = 1; i <= 10; ++i) {
    peers.push_back(first.Dial());
    ASSERT_TRUE(second.Until([&] { return shared.accepts == i; })) << "it waits for the other port";
  }
  EXPECT_EQ(own.accepts, 0U);
  for (std::size_t i = 1; i <= 10; ++i) {
    peers.push_back(first.Dial());
    ASSERT_TRUE(first.Until([&] { return own.accepts == i; })) << "it waits for the other port";
  }
  EXPECT_EQ(shared.accepts, 10U);
  EXPECT_TRUE(second.Settle());
  EXPECT_EQ(shared.accepts, 10U) << "accepted twice";

  // One ends, and the other goes on.
  first.CancelAccept();
  ASSERT_TRUE(first.Until([&] { return !own.accepting; }));
  first.EndAccepting(own);
  peers.push_back(second.Dial(shared));
  EXPECT_TRUE(second.Until([&] { return shared.accepts == 11; }));
  second.CancelAccept(shared);
  ASSERT_TRUE(second.Until([&] { return !shared.accepting; }));
  second.CloseListener(shared);
  first.CloseListener(own);
  EXPECT_EQ(world().Connect(own.bound), nullptr) << "somebody still listens";
  EXPECT_TRUE(first.accept_errors().empty());
  EXPECT_TRUE(second.accept_errors().empty());
}

// A port that has no room leaves the client to the others.
TEST_P(ConformanceTest, R08_AClientThatOnePortLeavesIsTheOthers) {
  CountingGate full(0);
  DriverOptions options;
  options.gate = &full;
  PortDriver first(world(), options);
  if (first.port().shared()) GTEST_SKIP() << "such a port has several workers instead";
  PortDriver second(world());
  ServerListener& shared = second.Share(first.listener());
  second.Accept(shared);
  std::vector<std::unique_ptr<Peer>> peers;
  for (std::size_t i = 1; i <= 5; ++i) {
    peers.push_back(first.Dial());
    EXPECT_TRUE(first.Settle());
    EXPECT_TRUE(second.Until([&] { return shared.accepts == i; }));
  }
  EXPECT_EQ(first.accepts(), 0U);
  second.CancelAccept(shared);
  ASSERT_TRUE(second.Until([&] { return !shared.accepting; }));
  peers.push_back(first.Dial());
  full.room = 1;
  first.port().Resume(first.listener());
  EXPECT_TRUE(first.Until([&] { return first.accepts() == 1; }));
}

TEST_P(ConformanceTest, R08_AcceptingThatCannotBeginLeavesNothingBehind) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  const std::size_t descriptors = world().OpenDescriptors();
  const int pending = driver.port().pending_accepts();
  // A connection does not listen.
  ServerListener wrong;
  wrong.handle = end.handle;
  const Error error = driver.port().Accept(wrong);
  EXPECT_TRUE(error);
  EXPECT_EQ(wrong.port_data, nullptr);
  EXPECT_EQ(driver.port().pending_accepts(), pending);
  EXPECT_EQ(world().OpenDescriptors(), descriptors);
  EXPECT_TRUE(driver.Settle());
  // The port and the connection go on.
  end.peer_writing = "still here";
  EXPECT_TRUE(driver.Until([&] { return end.received == "still here"; }));
  driver.Connect();
}

}  // namespace
}  // namespace iocp::testing
