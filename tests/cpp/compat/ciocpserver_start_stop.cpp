// Starting and stopping a CIOCPServer.
#include <string>
#include <thread>
#include <vector>

#include "programs.h"

namespace programs {
namespace {

using namespace std::chrono_literals;

TEST_P(CIOCPServerTest, StartAnswersFalseAndLeavesTheReason) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const int port = server.m_nPort;
  EXPECT_NE(port, 0);
  EXPECT_FALSE(server.Start(port));
  EXPECT_EQ(WSAGetLastError(), WSAEALREADY);
  EXPECT_EQ(server.m_nMaxConnections, 2000);

  On<> second(GetParam(), &log_);
  EXPECT_FALSE(second.m_bServerStarted);
  EXPECT_FALSE(second.Start(port));
  EXPECT_EQ(WSAGetLastError(), WSAEADDRINUSE);
  EXPECT_FALSE(second.Start(70000));
  EXPECT_EQ(WSAGetLastError(), WSAEINVAL);
  EXPECT_FALSE(second.Start(-1));
  EXPECT_FALSE(second.Start(0, 0));
  EXPECT_FALSE(second.m_bServerStarted);
  EXPECT_TRUE(second.Start(0));
  EXPECT_TRUE(second.m_bServerStarted);
  const Client client = Served(second, "after all");
}

TEST_P(CIOCPServerTest, StartHasTheOriginalsDefaults) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start());
  const iocp::Options& options = server.options;
  EXPECT_EQ(options.port, 4567);
  EXPECT_EQ(options.host, "0.0.0.0");
  EXPECT_EQ(options.workers, 2);
  EXPECT_EQ(options.max_connections, 2000);
  EXPECT_EQ(options.at_capacity, iocp::AtCapacity::kRefuse);
  EXPECT_EQ(options.max_free_buffers, 200);
  EXPECT_EQ(options.max_free_contexts, 100);
  EXPECT_EQ(options.initial_reads, 4);
  EXPECT_EQ(options.initial_accepts, 10);
  EXPECT_EQ(options.max_accepts, 100);
  EXPECT_EQ(options.listen_backlog, 200);
  EXPECT_EQ(options.send_backlog_limit, 20U * 4096);
  EXPECT_EQ(options.first_data_timeout, iocp::Duration(2min));
  ASSERT_TRUE(options.keepalive);
  EXPECT_EQ(options.keepalive->idle, iocp::Duration(5s));
  EXPECT_EQ(options.keepalive->interval, iocp::Duration(1s));
  const Client client = Served(server, "on defaults");
}

TEST_P(CIOCPServerTest, ConnectionsAboveTheLimitAreReset) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0, 2, 0, 0, 1));
  const Client first = Served(server, "x");
  const Client second = Served(server, "y");
  EXPECT_NE(server.Connect().WaitForEnd(), 0);
  EXPECT_EQ(server.GetCurrentConnection(), 2U);
}

TEST_P(CIOCPServerTest, ShutdownAndStartAgainAnyNumberOfTimes) {
  On<> server(GetParam(), &log_);
  constexpr std::size_t kRuns = 10;
  for (std::size_t run = 1; run <= kRuns; ++run) {
    ASSERT_TRUE(server.Start(0));
    EXPECT_TRUE(server.m_bServerStarted);
    EXPECT_FALSE(server.m_bShutDown);
    std::vector<Client> clients;
    clients.push_back(Served(server, "again"));
    ShutdownWith(server, clients);
    server.Shutdown();
    EXPECT_FALSE(server.m_bServerStarted);
    EXPECT_TRUE(server.m_bShutDown);
    EXPECT_EQ(server.GetCurrentConnection(), 0U);
    ASSERT_EQ(log_.Count(Hook::kClosing), run);
    EXPECT_FALSE(server.SendText(log_.Of(Hook::kClosing).back().context, "late", 4));
  }
}

TEST_P(CIOCPServerTest, ShutdownInAHookGoesOnBehindIt) {
  struct CStoppingServer : CEchoServer {
    using CEchoServer::CEchoServer;
    void OnReadCompleted(CIOCPContext*, CIOCPBuffer*) override { Shutdown(); }
  };
  On<CStoppingServer> server(GetParam(), &log_);
  for (std::size_t run = 1; run <= 3; ++run) {
    ASSERT_TRUE(server.Start(0));
    Client client = Served(server, "x");
    client.Send("stop");
    EXPECT_EQ(client.WaitForEnd(), 0);
    client.Close();
    ASSERT_TRUE(Eventually([&] { return !server.m_bServerStarted; }));
    EXPECT_EQ(log_.Count(Hook::kClosing), run);
  }
}

// Sound as long as no hook uses a member of the subclass: after the destructor no hook runs.
TEST_P(CIOCPServerTest, TheDestructorStopsAServerThatStillRuns) {
  struct CBareServer : CEchoServer {
    CBareServer(std::string name, Log* log) : CEchoServer(log), backend(std::move(name)) {}
    void AdjustOptions(iocp::Options& adjusted) override {
      adjusted.host = "127.0.0.1";
      adjusted.backend = backend;
    }
    [[nodiscard]] Client Connect() const {
      iocp::Address address;
      address.port = static_cast<std::uint16_t>(m_nPort);
      return Client(address);
    }
    const std::string backend;  // for Start only
  };
  auto* const server = new CBareServer(GetParam(), &log_);
  ASSERT_TRUE(server->Start(0));
  Client client = server->Connect();
  client.Send("x");
  EXPECT_EQ(client.Receive(1), "x");
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 1));
  std::thread ending([&] {
    EXPECT_EQ(client.WaitForEnd(), 0);
    client.Close();
  });
  CIOCPServer* const base = server;
  delete base;
  ending.join();
  EXPECT_EQ(log_.Count(Hook::kClosing), 0U) << "a hook of a subclass that was gone";
}

}  // namespace
}  // namespace programs
