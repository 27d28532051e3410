// The server under load, on the real ports of this system, with every number of posted reads that
// makes a difference there. IOCP_FULL_LOAD=1 makes the runs as long as the promises are; without it
// they are a part of that.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <ostream>
#include <random>
#include <thread>

#include "support/backends.h"
#include "support/client.h"
#include "support/handlers.h"

namespace iocp {
namespace {

using namespace std::chrono_literals;
using testing::Client;
using testing::EchoHandler;
using testing::Eventually;

bool FullLoad() { return std::getenv("IOCP_FULL_LOAD") != nullptr; }

struct LoadParam {
  std::string backend;
  int initial_reads;
  int workers;
};
std::ostream& operator<<(std::ostream& out, const LoadParam& param) {
  return out << param.backend << "_" << param.initial_reads << "_reads_" << param.workers
             << "_workers";
}

class ServerLoadTest : public ::testing::TestWithParam<LoadParam> {
 protected:
  static Options Load() {
    Options options;
    options.backend = GetParam().backend;
    options.port = 0;
    options.initial_reads = GetParam().initial_reads;
    options.workers = GetParam().workers;
    return options;
  }
  static void Start(Server& server, const Options& options) {
    const Status status = server.Start(options);
    ASSERT_TRUE(status.ok()) << status.message;
  }
};

template <typename Work>
void InThreads(int count, Work work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
}

TEST_P(ServerLoadTest, AThousandConnectionsEchoRandomBytesInOrder) {
  EchoHandler handler;
  Server server(handler);
  Options options = Load();
  options.max_connections = 2000;
  Start(server, options);
  constexpr int kThreads = 8;
  constexpr int kConnections = 1000 / kThreads;
  const int messages = FullLoad() ? 100 : 10;
  constexpr std::size_t kLongest = 20'000;
  std::atomic<int> right{0};
  InThreads(kThreads, [&](int index) {
    std::mt19937 random(static_cast<unsigned>(index));
    std::string bytes(64 * 1024, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    std::vector<Client> clients;
    for (int i = 0; i < kConnections; ++i) clients.emplace_back(server.address());
    // A message is on its way on every connection at once.
    std::vector<std::string_view> sent(clients.size());
    for (int message = 0; message < messages; ++message) {
      for (std::size_t i = 0; i < clients.size(); ++i) {
        const std::size_t size = 1 + random() % kLongest;
        sent[i] = std::string_view(bytes).substr(random() % (bytes.size() - size), size);
        clients[i].Send(sent[i]);
      }
      for (std::size_t i = 0; i < clients.size(); ++i) {
        right += clients[i].Receive(sent[i].size()) == sent[i] ? 1 : 0;
      }
    }
  });
  EXPECT_EQ(right, kThreads * kConnections * messages);
  EXPECT_TRUE(Eventually([&] {
    return server.stats().closed[static_cast<std::size_t>(CloseReason::kPeerClosed)] == 1000U;
  }));
  const Stats stats = server.stats();
  EXPECT_EQ(stats.connections, 0U);
  EXPECT_EQ(stats.bytes_received, stats.bytes_sent);
}

TEST_P(ServerLoadTest, ClientsThatWaitForRoomStayWithTheSystemUntilTheyAreServed) {
  EchoHandler handler;
  Server server(handler);
  Options options = Load();
  options.max_connections = 5;
  options.at_capacity = AtCapacity::kWait;
  options.listen_backlog = 4096;
  Start(server, options);
  const std::uint64_t waiting = FullLoad() ? 3000 : 300;
  const auto most = static_cast<std::uint64_t>(options.max_connections);
  std::vector<Client> clients;
  for (std::uint64_t i = 0; i < waiting; ++i) clients.emplace_back(server.address());
  std::uint64_t gone = 0;
  for (Client& client : clients) {
    client.Send("patience");
    ASSERT_EQ(client.Receive(8), "patience");
    EXPECT_LE(server.stats().accepted, gone + most);
    client.Close();
    ++gone;
  }
  EXPECT_EQ(server.stats().accepted, waiting);
  EXPECT_EQ(server.stats().refused, 0U);
}

TEST_P(ServerLoadTest, ClientsThatResetDuringAndAfterAcceptAreAllAccountedFor) {
  EchoHandler handler;
  Server server(handler);
  Start(server, Load());
  const std::uint64_t clients = FullLoad() ? 5000 : 1000;
  for (std::uint64_t i = 0; i < clients; ++i) {
    Client client(server.address());
    if (i % 3 == 0) client.Send("half a request");
    if (i % 5 == 0) std::this_thread::yield();
    client.Reset();
  }
  // One that was reset while it was adopted counts as accepted, and as an accept that failed.
  EXPECT_TRUE(Eventually([&] {
    const Stats stats = server.stats();
    return stats.connections == 0 && stats.established + stats.accept_errors == clients;
  })) << server.stats().established
      << " established, " << server.stats().accept_errors << " failed";
  const Client serious(server.address());
  serious.Send("still there?");
  EXPECT_EQ(serious.Receive(12), "still there?");
}

TEST_P(ServerLoadTest, SilentClientsAreClosedOnTimeUnderTraffic) {
  EchoHandler handler;
  Server server(handler);
  Options options = Load();
  options.first_data_timeout = 500ms;
  Start(server, options);
  std::atomic<bool> stop{false};
  std::atomic<int> starved{0};
  std::atomic<int> echoes{0};
  std::thread traffic([&] {
    InThreads(4, [&](int) {
      const Client busy(server.address());
      const std::string data(5000, 'b');
      while (!stop) {
        busy.Send(data);
        if (busy.Receive(data.size()) != data) {
          ++starved;
          return;
        }
        ++echoes;
      }
    });
  });
  std::vector<Client> silent;
  for (int i = 0; i < 150; ++i) silent.emplace_back(server.address());
  const auto connected = std::chrono::steady_clock::now();
  for (const Client& client : silent) EXPECT_EQ(client.WaitForEnd(), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - connected, 3s);
  stop = true;
  traffic.join();
  EXPECT_EQ(starved, 0);
  EXPECT_GT(echoes, 20);
  EXPECT_TRUE(Eventually([&] {
    return server.stats().closed[static_cast<std::size_t>(CloseReason::kFirstDataTimeout)] == 150U;
  }));
}

TEST_P(ServerLoadTest, MuchDataAndAnOrderlyEndAfterSendAndClose) {
  // The client speaks first, and still has something in the air when the server closes.
  struct Speaker final : Handler {
    void OnReadCompleted(Connection& connection, Buffer&) override {
      connection.Send(data.data(), data.size());
      connection.Close();
    }
    std::string data;
  } handler;
  Server server(handler);
  constexpr std::size_t kMuch = 8 * 1024 * 1024;
  std::mt19937 random(8);
  handler.data.resize(kMuch);
  for (char& byte : handler.data) byte = static_cast<char>(random());
  Start(server, Load());
  const int times = FullLoad() ? 200 : 20;
  for (int i = 0; i < times; ++i) {
    const Client client(server.address());
    client.Send("go");
    int error = 0;
    ASSERT_TRUE(client.Receive(kMuch + 1, &error) == handler.data) << i << ": error " << error;
    ASSERT_EQ(error, 0);
  }
}

TEST_P(ServerLoadTest, ShutdownUnderLoadAndStartAgainLeaksNothing) {
  EchoHandler handler;
  Server server(handler);
  const auto round = [&] {
    Start(server, Load());
    std::vector<Client> clients;
    for (int i = 0; i < 4; ++i) clients.emplace_back(server.address());
    std::atomic<int> talking{0};
    std::vector<std::thread> threads;
    for (const Client& client : clients) {
      threads.emplace_back([&] {
        const std::string data(3000, 'l');
        while (client.Send(data) && client.Receive(data.size()) == data) ++talking;
      });
    }
    EXPECT_TRUE(Eventually([&] { return talking >= 8; }));
    server.Shutdown(20ms);
    for (std::thread& thread : threads) thread.join();
  };
  // The first ones make what is kept.
  for (int i = 0; i < 3; ++i) round();
  const std::size_t before = testing::CountDescriptors();
  for (int i = 0; i < 50; ++i) round();
  EXPECT_LE(testing::CountDescriptors(), before + 2) << "descriptors or handles leak";
}

std::vector<LoadParam> LoadParams() {
  std::vector<LoadParam> params;
  for (const std::string& backend : testing::AvailableBackends()) {
    const bool posts_reads = backend == "iocp";
    for (const int reads : posts_reads ? std::vector<int>{0, 1, 4, 16} : std::vector<int>{4}) {
      params.push_back({backend, reads, 4});
    }
    for (const int workers : {1, 2, 8}) params.push_back({backend, 4, workers});
  }
  return params;
}

INSTANTIATE_TEST_SUITE_P(Ports, ServerLoadTest, ::testing::ValuesIn(LoadParams()),
                         [](const auto& test) { return ::testing::PrintToString(test.param); });

}  // namespace
}  // namespace iocp
