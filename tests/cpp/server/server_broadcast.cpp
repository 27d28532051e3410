// The server on the real ports: one send to many.
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server_fixture.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

TEST_P(ServerTest, BroadcastReachesAllButOne) {
  Start(On(2));
  std::vector<Client> clients;
  for (int i = 0; i < 20; ++i) clients.emplace_back(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 20; }));
  const auto connections = server_.connections();
  ASSERT_EQ(connections.size(), 20U);
  EXPECT_EQ(server_.Broadcast("all", 3, connections.front().get()), 19U);
  server_.CloseAllConnections();
  int heard = 0;
  for (const Client& client : clients) heard += client.Receive(4) == "all" ? 1 : 0;
  EXPECT_EQ(heard, 19);
}

TEST_P(ServerTest, BroadcastToSomeReachesEachOnceOfWhateverServer) {
  Start(On(2));
  RecordingHandler others;
  Server other(others);
  ASSERT_TRUE(other.Start(On()).ok());
  const Stopper stopper{server_};
  const Stopper other_stopper{other};
  std::vector<Client> clients;
  for (int i = 0; i < 3; ++i) clients.emplace_back(server_.address());
  const Client elsewhere(other.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 3; }));
  ASSERT_TRUE(others.WaitFor([&] { return others.records.size() == 1; }));
  std::vector<ConnectionPtr> to = server_.connections();
  to.back() = ConnectionPtr();
  to.push_back(to.front());
  to.push_back(other.connections().front());
  to.push_back(other.connections().front());
  std::vector<ConnectionPtr> full(7);
  EXPECT_EQ(server_.Broadcast("some", 4, to, &full), 3U);
  EXPECT_TRUE(full.empty());
  EXPECT_EQ(server_.Broadcast("", 0, std::vector<ConnectionPtr>()), 0U);
  for (ConnectionPtr& connection : to) connection = ConnectionPtr();
  server_.CloseAllConnections();
  other.CloseAllConnections();
  std::multiset<std::string> heard;
  for (const Client& client : clients) heard.insert(client.Receive(9));
  EXPECT_EQ(heard, (std::multiset<std::string>{"", "some", "some"}));
  EXPECT_EQ(elsewhere.Receive(9), "some");
}

// A reader that has stopped: more is queued than the systems between it and us hold.
TEST_P(ServerTest, BroadcastReturnsThoseWithAFullBacklog) {
  Start(On());
  const Stopper stopper{server_};
  const Client stuck(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
  const ConnectionPtr slow = server_.connections().front();
  const Client reader(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 2; }));
  const std::string much(64 << 20, 'x');
  ASSERT_EQ(slow->Send(much.data(), much.size()), SendResult::kAccepted);
  std::vector<ConnectionPtr> full;
  EXPECT_EQ(server_.Broadcast("all", 3, nullptr, &full), 1U);
  ASSERT_EQ(full.size(), 1U);
  EXPECT_EQ(full.front().get(), slow.get());
  EXPECT_EQ(server_.Broadcast("all", 3, server_.connections(), &full), 1U);
  EXPECT_EQ(full.size(), 1U);
  EXPECT_EQ(server_.Broadcast("all", 3, slow.get(), &full), 1U);
  EXPECT_TRUE(full.empty());
  EXPECT_EQ(reader.Receive(9), "allallall");
  const Stats stats = server_.stats();
  EXPECT_EQ(stats.broadcasts_skipped, 2U);
  EXPECT_EQ(stats.sends_refused, 0U);
  EXPECT_GT(stats.send_backlog, 1U << 20U);
  EXPECT_GE(stats.send_backlog, slow->send_backlog());
  slow->Abort();
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(server_.stats().send_backlog, 0U);
}

}  // namespace
}  // namespace iocp::testing
