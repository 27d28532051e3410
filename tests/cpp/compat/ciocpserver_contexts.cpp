// The contexts of CIOCPServer: how connections end, and walks over those that are open.
#include <cctype>
#include <map>
#include <string>
#include <vector>

#include "programs.h"

namespace programs {
namespace {

using namespace std::chrono_literals;

// NOLINTBEGIN(readability-identifier-naming, modernize-use-override, modernize-use-nullptr)

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

}  // namespace
}  // namespace programs
