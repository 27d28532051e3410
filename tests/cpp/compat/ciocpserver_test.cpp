// Programs as they are written for the classic CIOCPServer, on cpp/compat/ciocpserver.h.
#if defined(_WIN32) && !defined(NOMINMAX)
#define NOMINMAX  // for the harness; the header is the programs' and leaves such things to them
#endif
#include "compat/ciocpserver.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/backends.h"
#include "support/client.h"

namespace {

using namespace std::chrono_literals;
using iocp::testing::Client;
using iocp::testing::Eventually;

// What hooks tell, in order, and whether the order is one that the original's users may rely on.
class Log {
 public:
  enum class Hook { kEstablished, kRead, kWrite, kClosing, kError };
  struct Event {
    Hook hook{};
    CIOCPContext* context = nullptr;
    SOCKET connection = INVALID_SOCKET;
    std::string bytes;
    int error = 0;
    ULONG connections = 0;
  };

  void Add(Event event) {
    const std::lock_guard lock(mutex_);
    event.connection = event.context->s;
    if (event.hook == Hook::kEstablished) {
      EXPECT_TRUE(open_.insert(event.connection).second) << "established twice";
    } else if (event.hook == Hook::kClosing || event.hook == Hook::kError) {
      EXPECT_EQ(open_.erase(event.connection), 1U) << "ended twice, or never established";
    } else {
      EXPECT_EQ(open_.count(event.connection), 1U) << "a hook before the first or after the last";
    }
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  std::vector<Event> Of(Hook hook) const {
    const std::lock_guard lock(mutex_);
    std::vector<Event> some;
    std::copy_if(events_.begin(), events_.end(), std::back_inserter(some),
                 [&](const Event& event) { return event.hook == hook; });
    return some;
  }
  std::size_t Count(Hook hook) const { return Of(hook).size(); }
  // All bytes that were told with such hooks.
  std::string BytesOf(Hook hook) const {
    std::string bytes;
    for (const Event& event : Of(hook)) bytes += event.bytes;
    return bytes;
  }
  bool WaitFor(Hook hook, std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, iocp::testing::kDeadline, [&] {
      return std::count_if(events_.begin(), events_.end(), [&](const Event& event) {
               return event.hook == hook;
             }) >= static_cast<std::ptrdiff_t>(count);
    });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Event> events_;
  std::set<SOCKET> open_;
};
using Hook = Log::Hook;

// --- Programs for the original: its types, its idioms, nothing of ours but the include line.
// NOLINTBEGIN(readability-identifier-naming, modernize-use-override, modernize-use-nullptr)

class CEchoServer : public CIOCPServer {
 public:
  explicit CEchoServer(Log* pLog) : m_pLog(pLog) {}

  void OnConnectionEstablished(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kEstablished, pContext, pBuffer, 0);
    SendText(pContext, pBuffer->buff, pBuffer->nLen);
  }
  void OnConnectionClosing(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kClosing, pContext, pBuffer, 0);
  }
  void OnConnectionError(CIOCPContext* pContext, CIOCPBuffer* pBuffer, int nError) {
    Note(Hook::kError, pContext, pBuffer, nError);
  }
  void OnReadCompleted(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kRead, pContext, pBuffer, 0);
    SendText(pContext, pBuffer->buff, pBuffer->nLen);
  }
  void OnWriteCompleted(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kWrite, pContext, pBuffer, 0);
  }

 protected:
  void Note(Hook hook, CIOCPContext* pContext, CIOCPBuffer* pBuffer, int nError) {
    if (m_pLog == NULL) return;
    m_pLog->Add({hook, pContext, INVALID_SOCKET,
                 std::string(pBuffer->buff, static_cast<std::size_t>(pBuffer->nLen)), nError,
                 GetCurrentConnection()});
  }

  Log* m_pLog;
};

// The first line is a name; what follows goes to everybody.
class CChatServer : public CIOCPServer {
 public:
  CChatServer() { ::InitializeCriticalSection(&m_NamesLock); }
  ~CChatServer() {
    Shutdown();
    ::DeleteCriticalSection(&m_NamesLock);
  }

  void OnConnectionEstablished(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    pBuffer->buff[pBuffer->nLen] = 0;
    ::EnterCriticalSection(&m_NamesLock);
    m_Names[pContext] = pBuffer->buff;
    ::LeaveCriticalSection(&m_NamesLock);
    Say(NULL, "+", pBuffer->buff);
  }
  void OnReadCompleted(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    for (int i = 0; i < pBuffer->nLen; i++) {
      pBuffer->buff[i] = static_cast<char>(::toupper(pBuffer->buff[i]));
    }
    Say(pContext, NameOf(pContext).c_str(), pBuffer->buff);
  }
  void OnConnectionClosing(CIOCPContext* pContext, CIOCPBuffer*) { Forget(pContext); }
  void OnConnectionError(CIOCPContext* pContext, CIOCPBuffer*, int) { Forget(pContext); }

  std::string NameOf(CIOCPContext* pContext) {
    ::EnterCriticalSection(&m_NamesLock);
    std::string name = m_Names[pContext];
    ::LeaveCriticalSection(&m_NamesLock);
    return name;
  }
  void Say(CIOCPContext* pExcept, const char* pszWho, const char* pszWhat) {
    std::string text = std::string(pszWho) + ":" + pszWhat + ";";
    ::EnterCriticalSection(&m_ConnectionListLock);
    for (CIOCPContext* p = m_pConnectionList; p != NULL; p = p->pNext) {
      if (p != pExcept) SendText(p, &text[0], static_cast<int>(text.size()));
    }
    ::LeaveCriticalSection(&m_ConnectionListLock);
  }

 private:
  void Forget(CIOCPContext* pContext) {
    std::string name = NameOf(pContext);
    ::EnterCriticalSection(&m_NamesLock);
    m_Names.erase(pContext);
    ::LeaveCriticalSection(&m_NamesLock);
    Say(pContext, "-", name.c_str());
  }

  CRITICAL_SECTION m_NamesLock;
  std::map<CIOCPContext*, std::string> m_Names;
};

// NOLINTEND(readability-identifier-naming, modernize-use-override, modernize-use-nullptr)

// Such a program on one back-end and on the loopback interface, with its protected parts in reach.
template <typename Program>
class Running : public Program {
 public:
  template <typename... Arguments>
  explicit Running(const std::string& backend, Arguments... arguments)
      : Program(arguments...), backend_(backend) {}
  ~Running() override { this->Shutdown(); }

  using Program::AllocateBuffer;
  using Program::m_bServerStarted;
  using Program::m_bShutDown;
  using Program::m_nMaxConnections;
  using Program::m_nMaxSends;
  using Program::m_nPort;
  using Program::NotifyConnectionClosing;
  using Program::PostSend;
  using Program::ReleaseBuffer;

  iocp::Options options;                  // as Start made them
  std::size_t buffer_size = BUFFER_SIZE;  // of the engine

  [[nodiscard]] Client Connect() const {
    iocp::Address address;
    address.port = static_cast<std::uint16_t>(this->m_nPort);
    return Client(address);
  }

 protected:
  void AdjustOptions(iocp::Options& adjusted) override {
    options = adjusted;
    adjusted.host = "127.0.0.1";
    adjusted.backend = backend_;
    adjusted.buffer_size = 65536;  // without effect: a hook has room for BUFFER_SIZE
    if (adjusted.port == 4567) adjusted.port = 0;  // others may use it
  }

 private:
  const std::string backend_;
};

class CIOCPServerTest : public ::testing::TestWithParam<std::string> {
 protected:
  template <typename Program = CEchoServer>
  using On = Running<Program>;

  // The client's end of one that was served, with `first` as its first data.
  template <typename Program>
  static Client Served(const On<Program>& server, const std::string& first) {
    Client client = server.Connect();
    client.Send(first);
    EXPECT_EQ(client.Receive(first.size()), first);
    return client;
  }
  // Shuts down while clients answer the end of their streams with their own.
  template <typename Program>
  static void ShutdownWith(On<Program>& server, std::vector<Client>& clients) {
    std::thread ending([&] {
      for (Client& client : clients) {
        EXPECT_EQ(client.Receive(1), "") << "sent what nobody asked for";
        client.Close();
      }
    });
    server.Shutdown();
    ending.join();
  }

  Log log_;
};

std::string Pattern(std::size_t size) {
  std::string data(size, '\0');
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<char>(i * 31 + i / 251);
  return data;
}

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

TEST_P(CIOCPServerTest, WritesAreToldWithTheirBytes) {
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

TEST_P(CIOCPServerTest, WritesOfManyThreadsAreToldInTheOrderOfTheStream) {
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

TEST_P(CIOCPServerTest, AFullBacklogIsToldFromAClosedConnectionAndLosesNothing) {
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

TEST_P(CIOCPServerTest, ADeadContextIsAHarmlessHandle) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  const Client other = Served(server, "the other");
  constexpr std::size_t kConnections = 200;
  for (std::size_t i = 1; i <= kConnections; ++i) {
    {
      const Client client = Served(server, "dies");
    }
    ASSERT_TRUE(log_.WaitFor(Hook::kClosing, i));
  }
  const auto ended = log_.Of(Hook::kClosing);
  std::set<CIOCPContext*> contexts;
  std::set<SOCKET> numbers;
  char text[] = "to the dead";
  for (const Log::Event& event : ended) {
    contexts.insert(event.context);
    numbers.insert(event.connection);
    EXPECT_FALSE(server.SendText(event.context, text, sizeof(text)));
    CIOCPBuffer* const buffer = server.AllocateBuffer(1);
    EXPECT_FALSE(server.PostSend(event.context, buffer));
    server.ReleaseBuffer(buffer);
    server.CloseAConnection(event.context);
    EXPECT_TRUE(event.context->bClosing);
  }
  EXPECT_EQ(contexts.size(), kConnections) << "a dead context became another connection";
  EXPECT_EQ(numbers.size(), kConnections);
  EXPECT_FALSE(server.SendText(nullptr, text, 1));
  EXPECT_FALSE(server.PostSend(nullptr, nullptr));
  server.CloseAConnection(nullptr);
  other.Send("lives");
  EXPECT_EQ(other.Receive(5), "lives");
  EXPECT_EQ(log_.Count(Hook::kClosing), kConnections);
}

TEST_P(CIOCPServerTest, ContextsAreUsedAgainInTheEnd) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  constexpr std::size_t kConnections = 1200;  // more than the dead that are kept
  for (std::size_t i = 1; i <= kConnections; ++i) {
    {
      const Client client = Served(server, "x");
    }
    ASSERT_TRUE(log_.WaitFor(Hook::kClosing, i));
  }
  std::set<CIOCPContext*> contexts;
  std::set<SOCKET> numbers;
  for (const Log::Event& event : log_.Of(Hook::kClosing)) {
    contexts.insert(event.context);
    numbers.insert(event.connection);
  }
  EXPECT_GE(contexts.size(), 1024U);
  EXPECT_LT(contexts.size(), kConnections);
  EXPECT_EQ(numbers.size(), kConnections);
}

TEST_P(CIOCPServerTest, CloseAConnectionFlushesAndClosesOnce) {
  struct CByeServer : CEchoServer {
    using CEchoServer::CEchoServer;
    void OnReadCompleted(CIOCPContext* context, CIOCPBuffer* buffer) override {
      Note(Hook::kRead, context, buffer, 0);
      EXPECT_TRUE(SendText(context, "bye", 3));
      CloseAConnection(context);
      CloseAConnection(context);
      EXPECT_FALSE(SendText(context, "more", 4));
      EXPECT_TRUE(context->bClosing);
    }
  };
  On<CByeServer> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  Client client = Served(server, "hi");
  client.Send(Pattern(std::size_t{5} * BUFFER_SIZE));
  EXPECT_EQ(client.Receive(4), "bye");
  client.Close();
  ASSERT_TRUE(log_.WaitFor(Hook::kClosing, 1));
  EXPECT_EQ(log_.Count(Hook::kRead), 1U) << "a read after CloseAConnection";
  EXPECT_TRUE(Eventually([&] { return server.GetCurrentConnection() == 0; }));
}

TEST_P(CIOCPServerTest, CloseAllConnectionsClosesEachOnceAndTheCountIsTrue) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  std::vector<Client> clients;
  constexpr std::size_t kClients = 20;
  clients.reserve(kClients);
  for (std::size_t i = 0; i < kClients; ++i) clients.push_back(Served(server, "x"));
  const auto established = log_.Of(Hook::kEstablished);
  for (std::size_t i = 0; i < kClients; ++i) EXPECT_EQ(established[i].connections, i + 1);
  EXPECT_EQ(server.GetCurrentConnection(), kClients);
  server.CloseAllConnections();
  server.CloseAllConnections();
  for (Client& client : clients) {
    EXPECT_EQ(client.WaitForEnd(), 0);
    client.Close();
  }
  ASSERT_TRUE(log_.WaitFor(Hook::kClosing, kClients));
  EXPECT_TRUE(Eventually([&] { return server.GetCurrentConnection() == 0; }));
  for (const Log::Event& event : log_.Of(Hook::kClosing)) EXPECT_GE(event.connections, 1U);
  EXPECT_EQ(log_.Count(Hook::kError), 0U);
  const Client next = Served(server, "next");
  EXPECT_EQ(server.GetCurrentConnection(), 1U);
}

TEST_P(CIOCPServerTest, ASubclassThatNotifiesByItselfIsNotNotifiedAgain) {
  On<> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  Client client = Served(server, "x");
  CIOCPContext* const context = log_.Of(Hook::kEstablished).front().context;
  ASSERT_TRUE(log_.WaitFor(Hook::kWrite, 1));
  CIOCPBuffer* const buffer = server.AllocateBuffer(0);
  server.NotifyConnectionClosing(context, buffer);
  server.ReleaseBuffer(buffer);
  server.CloseAConnection(context);
  EXPECT_EQ(client.WaitForEnd(), 0);
  client.Close();
  EXPECT_TRUE(Eventually([&] { return server.GetCurrentConnection() == 0; }));
  EXPECT_EQ(log_.Count(Hook::kClosing), 1U);
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

TEST_P(CIOCPServerTest, AChatThatWalksTheConnectionListAndHasALockOfItsOwn) {
  On<CChatServer> server(GetParam());
  ASSERT_TRUE(server.Start(0));
  Client ann = server.Connect();
  ann.Send("ann");
  EXPECT_EQ(ann.Receive(6), "+:ann;");
  Client bob = server.Connect();
  bob.Send("bob");
  EXPECT_EQ(ann.Receive(6), "+:bob;");
  EXPECT_EQ(bob.Receive(6), "+:bob;");
  ann.Send("hello");
  EXPECT_EQ(bob.Receive(10), "ann:HELLO;");
  ann.Close();
  EXPECT_EQ(bob.Receive(6), "-:ann;");
  bob.Send("to nobody");
  bob.Reset();
  EXPECT_TRUE(Eventually([&] { return server.GetCurrentConnection() == 0; }));
}

TEST_P(CIOCPServerTest, TheClosingHookMayWaitForAnotherConnectionsClose) {
  struct CWaitingServer : CEchoServer {
    using CEchoServer::CEchoServer;
    void OnConnectionClosing(CIOCPContext* context, CIOCPBuffer* buffer) override {
      CEchoServer::OnConnectionClosing(context, buffer);
      if (!m_pLog->WaitFor(Hook::kClosing, 2)) ADD_FAILURE() << "one closing hook at a time";
    }
  };
  On<CWaitingServer> server(GetParam(), &log_);
  ASSERT_TRUE(server.Start(0));
  Client first = Served(server, "x");
  Client second = Served(server, "y");
  first.Close();
  // Its hook waits already: the other's end cannot be in the same batch of the same worker.
  ASSERT_TRUE(log_.WaitFor(Hook::kClosing, 1));
  second.Close();
  EXPECT_TRUE(Eventually([&] { return server.GetCurrentConnection() == 0; }));
}

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

// As far as it can be sound: no hook runs any more, and none uses a member that has gone.
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

INSTANTIATE_TEST_SUITE_P(Ports, CIOCPServerTest,
                         ::testing::ValuesIn(iocp::testing::AvailableBackends()),
                         [](const auto& test) { return test.param; });

}  // namespace
