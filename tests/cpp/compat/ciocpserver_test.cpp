// The hooks of CIOCPServer with their buffers, and what is sent.
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "programs.h"

namespace programs {
namespace {

using namespace std::chrono_literals;

TEST_P(CIOCPServerTest, FirstDataComesWithOnConnectionEstablishedThenReads) {
  struct CDetailServer : CEchoServer {
    using CEchoServer::CEchoServer;
    void OnConnectionEstablished(CIOCPContext* context, CIOCPBuffer* buffer) override {
      EXPECT_EQ(buffer->nOperation, OP_ACCEPT);
      EXPECT_EQ(std::strlen(buffer->buff), 5U);
      EXPECT_STREQ(::inet_ntoa(context->addrRemote.sin_addr), "127.0.0.1");
      EXPECT_STREQ(::inet_ntoa(context->addrLocal.sin_addr), "127.0.0.1");
      EXPECT_EQ(context->addrRemote.sin_family, AF_INET);
      EXPECT_NE(context->addrRemote.sin_port, 0);
      local_port = ntohs(context->addrLocal.sin_port);
      CEchoServer::OnConnectionEstablished(context, buffer);
    }
    void OnReadCompleted(CIOCPContext* context, CIOCPBuffer* buffer) override {
      EXPECT_EQ(buffer->nOperation, OP_READ);
      EXPECT_EQ(buffer->nSequenceNumber, reads++);
      EXPECT_EQ(std::strlen(buffer->buff), static_cast<std::size_t>(buffer->nLen));
      CEchoServer::OnReadCompleted(context, buffer);
    }
    std::atomic<int> local_port{0};
    ULONG reads = 0;
  };
  On<CDetailServer> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const Client client = Served(server, "hello");
  EXPECT_EQ(server.local_port, server.m_nPort);
  ASSERT_EQ(log_.Count(Hook::kEstablished), 1U);
  EXPECT_EQ(log_.BytesOf(Hook::kEstablished), "hello");
  EXPECT_EQ(log_.Count(Hook::kRead), 0U);
  for (const char* const word : {"three", "two", "1"}) {
    client.Send(word);
    ASSERT_EQ(client.Receive(std::strlen(word)), word);
  }
  EXPECT_EQ(log_.BytesOf(Hook::kRead), "threetwo1");
  EXPECT_EQ(log_.Count(Hook::kEstablished), 1U);
}

TEST_P(CIOCPServerTest, ASilentClientIsNotReportedAndGetsNothing) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  std::vector<Client> clients;
  clients.push_back(server.Connect());
  clients.push_back(Served(server, "here"));
  EXPECT_EQ(server.GetCurrentConnection(), 1U);
  ShutdownWith(server, clients);
  EXPECT_EQ(log_.Count(Hook::kEstablished), 1U);
  EXPECT_EQ(log_.Count(Hook::kClosing), 1U);
}

TEST_P(CIOCPServerTest, NoHookGetsMoreThanABuffer) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const std::string data = Pattern(300'000);
  const Client client = server.Connect();
  std::thread sender([&] {
    client.Send(data);
    client.EndStream();
  });
  EXPECT_TRUE(client.Receive(data.size() + 1) == data);
  sender.join();
  ASSERT_TRUE(log_.WaitFor(Hook::kClosing, 1));
  EXPECT_TRUE(log_.BytesOf(Hook::kEstablished) + log_.BytesOf(Hook::kRead) == data);
  EXPECT_TRUE(log_.BytesOf(Hook::kWrite) == data);
  for (const Log::Event& event : log_.Of(Hook::kRead)) {
    EXPECT_LE(event.bytes.size(), static_cast<std::size_t>(BUFFER_SIZE));
  }
}

TEST_P(CIOCPServerTest, OneOfClosingAndErrorOnce) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  {
    const Client client = Served(server, "leaves in order");
  }
  ASSERT_TRUE(log_.WaitFor(Hook::kClosing, 1));
  EXPECT_EQ(log_.Count(Hook::kError), 0U);
  Client client = Served(server, "is broken off");
  client.Reset();
  ASSERT_TRUE(log_.WaitFor(Hook::kError, 1));
  EXPECT_EQ(log_.Of(Hook::kError).front().error, WSAECONNRESET);
  server.Shutdown();
  EXPECT_EQ(log_.Count(Hook::kClosing), 1U);
  EXPECT_EQ(log_.Count(Hook::kError), 1U);
}

TEST_P(CIOCPServerTest, WritesAreReportedWithTheirBytes) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const Client client = Served(server, "x");
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 1));
  CIOCPContext* const context = log_.Of(Hook::kEstablished).front().context;
  EXPECT_TRUE(server.SendText(context, "literal", 7));
  EXPECT_TRUE(server.SendText(context, nullptr, 0));
  EXPECT_FALSE(server.SendText(context, "negative", -1));
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 3));
  EXPECT_EQ(client.Receive(7), "literal");
  const auto writes = log_.Of(Hook::kWrite);
  EXPECT_EQ(writes[1].bytes, "literal");
  EXPECT_EQ(writes[2].bytes, "");
  EXPECT_EQ(context->nOutstandingSend, 0);
}

TEST_P(CIOCPServerTest, OneSendTextOfAnyLengthArrivesWhole) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const Client client = Served(server, "x");
  CIOCPContext* const context = log_.Of(Hook::kEstablished).front().context;
  const std::string data = Pattern(5'000'000);
  EXPECT_TRUE(server.SendText(context, data.data(), static_cast<int>(data.size())));
  EXPECT_TRUE(client.Receive(data.size()) == data);
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 2));
  EXPECT_TRUE(log_.Of(Hook::kWrite).back().bytes == data);
  EXPECT_FALSE(server.SendText(context, data.data(), -1));
  EXPECT_TRUE(server.SendText(context, "y", 1)) << "it lives";
  EXPECT_EQ(client.Receive(1), "y");
}

TEST_P(CIOCPServerTest, WritesOfManyThreadsAreReportedInTheOrderOfTheStream) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kSends = 300;
  constexpr std::size_t kSize = 8;
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const Client client = Served(server, "x");
  CIOCPContext* const context = log_.Of(Hook::kEstablished).front().context;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < kSends; ++i) {
        std::string text = std::to_string(t) + "/" + std::to_string(i);
        text.resize(kSize, '.');
        ASSERT_TRUE(Eventually([&] { return server.SendText(context, text.data(), kSize); }));
      }
    });
  }
  const std::string stream = client.Receive(kThreads * kSends * kSize);
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 1 + kThreads * kSends));
  EXPECT_EQ(log_.BytesOf(Hook::kWrite), "x" + stream);
}

TEST_P(CIOCPServerTest, AFullBacklogIsNotACloseAndLosesNothing) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  Client client = Served(server, "x");
  CIOCPContext* const context = log_.Of(Hook::kEstablished).front().context;
  const std::string piece = Pattern(BUFFER_SIZE);
  std::string accepted;
  while (server.SendText(context, piece.data(), BUFFER_SIZE)) accepted += piece;
  EXPECT_FALSE(context->bClosing);
  EXPECT_TRUE(client.Receive(accepted.size()) == accepted);
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 1 + accepted.size() / BUFFER_SIZE));
  EXPECT_TRUE(server.SendText(context, "y", 1));
  EXPECT_EQ(client.Receive(1), "y");
  client.Close();
  ASSERT_TRUE(log_.WaitFor(Hook::kClosing, 1));
  EXPECT_FALSE(server.SendText(context, "z", 1));
  EXPECT_TRUE(context->bClosing);
}

TEST_P(CIOCPServerTest, BuffersOfASubclassAndOfHooksMayBePosted) {
  struct CPostServer : CEchoServer {
    using CEchoServer::CEchoServer;
    void OnReadCompleted(CIOCPContext* context, CIOCPBuffer* buffer) override {
      EXPECT_TRUE(PostSend(context, buffer));
      ReleaseBuffer(buffer);
      buffer->buff[0] = '!';
      buffer->buff += 1;
      buffer->nLen = -1;
    }
    void OnWriteCompleted(CIOCPContext* context, CIOCPBuffer* buffer) override {
      EXPECT_EQ(buffer->nOperation, OP_WRITE);
      ReleaseBuffer(buffer);
      CEchoServer::OnWriteCompleted(context, buffer);
    }
  };
  On<CPostServer> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const Client client = Served(server, "first");
  CIOCPContext* const context = log_.Of(Hook::kEstablished).front().context;
  CIOCPBuffer* const mine = server.AllocateBuffer(3);
  ASSERT_NE(mine, nullptr);
  EXPECT_EQ(mine->nLen, 3);
  EXPECT_TRUE(std::all_of(mine->buff, mine->buff + BUFFER_SIZE, [](char c) { return c == 0; }));
  std::memset(mine->buff, 'm', BUFFER_SIZE);
  mine->nLen = BUFFER_SIZE;
  EXPECT_TRUE(server.PostSend(context, mine));
  EXPECT_EQ(client.Receive(BUFFER_SIZE), std::string(BUFFER_SIZE, 'm'));
  client.Send("posted by the hook");
  EXPECT_EQ(client.Receive(18), "posted by the hook");
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 3));
  EXPECT_EQ(log_.Of(Hook::kWrite)[2].bytes, "posted by the hook");
  EXPECT_EQ(server.AllocateBuffer(-1), nullptr);
  server.ReleaseBuffer(nullptr);
}

// A backlog of few buffers must not make an echo lose what a client sends ahead of its receiving.
TEST_P(CIOCPServerTest, AnEchoNeverMeetsTheLimitOfItsBacklog) {
  for (const int sends : {1, 3}) {
    On<> server(GetParam(), nullptr);
    server.m_nMaxSends = sends;
    ASSERT_TRUE(server.Start(0));
    const std::string data = Pattern(2'000'000);
    const Client client = server.Connect();
    std::thread sender([&] {
      for (std::size_t at = 0; at < 20'000; at += 100) client.Send(data.substr(at, 100));
      client.Send(data.substr(20'000));
    });
    EXPECT_TRUE(client.Receive(data.size()) == data);
    sender.join();
  }
}

INSTANTIATE_TEST_SUITE_P(Ports, CIOCPServerTest,
                         ::testing::ValuesIn(iocp::testing::AvailableBackends()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace programs
