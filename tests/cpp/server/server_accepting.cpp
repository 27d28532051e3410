// The server on the real ports: who is accepted, who is refused, who waits.
#include <vector>

#include "server_fixture.h"
#ifndef _WIN32
#include <sys/resource.h>
#endif

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

TEST_P(ServerTest, ResetsDuringAcceptDoNotMakeItDeaf) {
  StartEcho(On());
  for (int i = 0; i < 500; ++i) Client(server_.address()).Reset();
  const Client client(server_.address());
  client.Send("heard");
  EXPECT_EQ(client.Receive(5), "heard");
  EXPECT_TRUE(Eventually([&] {
    const Stats stats = server_.stats();
    return stats.established + stats.accept_errors == 501 && stats.connections == 1;
  }));
}

TEST_P(ServerTest, EstablishedOnFirstDataNeverReportsASilentClient) {
  Options options = On();
  options.established_on = EstablishedOn::kFirstData;
  StartEcho(options);
  {
    const Client silent(server_.address());
  }
  const Client client(server_.address());
  client.Send("first");
  EXPECT_EQ(client.Receive(5), "first");
  ASSERT_TRUE(Eventually([&] { return server_.connection_count() == 1; }));
  EXPECT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
  EXPECT_EQ(server_.stats().accepted, 2U);
  EXPECT_EQ(server_.stats().established, 1U);
}

TEST_P(ServerTest, AtCapacityRefusesWithAResetAndCounts) {
  Options options = On();
  options.max_connections = 2;
  StartEcho(options);
  std::vector<Client> clients;
  for (int i = 0; i < 2; ++i) clients.emplace_back(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 2; }));
  EXPECT_TRUE(IsReset(Client(server_.address()).WaitForEnd()));
  EXPECT_EQ(server_.stats().refused, 1U);
  clients.pop_back();
  ASSERT_TRUE(WaitForClosed(1));
  const Client next(server_.address());
  next.Send("room");
  EXPECT_EQ(next.Receive(4), "room");
}

TEST_P(ServerTest, AtCapacityWaitsUntilThereIsRoom) {
  Options options = On();
  options.max_connections = 3;
  options.at_capacity = AtCapacity::kWait;
  StartEcho(options);
  std::vector<Client> clients;
  for (int i = 0; i < 30; ++i) {
    clients.emplace_back(server_.address());
    clients.back().Send("patience");
  }
  std::uint64_t served = 0;
  for (Client& client : clients) {
    EXPECT_EQ(client.Receive(8), "patience");
    EXPECT_LE(server_.connection_count(), 3U);
    // Those that wait do so in the system's backlog: hardly anybody is accepted ahead of room.
    EXPECT_LE(server_.stats().accepted, served + 3 + 2);
    client.Close();
    ++served;
  }
  EXPECT_TRUE(WaitForClosed(30));
  EXPECT_EQ(server_.stats().refused, 0U);
}

#ifndef _WIN32  // has no limit of descriptors that a test could reach

// Descriptors run out because of clients, again and again: each time the server waits without
// burning the processor, and serves again. It says so once, not once for each client that goes.
TEST_P(ServerTest, OutOfDescriptorsWaitsAndRecovers) {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const int probe = ::dup(0);
  ::close(probe);
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(probe) + 40;
  // Before the start: io_uring takes the limit as it was when the accept was posted.
  ::setrlimit(RLIMIT_NOFILE, &tight);
  StartEcho(On());
  {
    const Client warm_up(server_.address());
  }
  for (std::size_t shortage = 1; shortage <= 3; ++shortage) {
    ASSERT_TRUE(WaitForClosed(shortage));
    const std::uint64_t errors = server_.stats().accept_errors;
    std::vector<int> hoard;
    for (int fd = ::dup(0); fd >= 0; fd = ::dup(0)) hoard.push_back(fd);
    ASSERT_GE(hoard.size(), 2U);
    // One for the client's end; none is left for the server's.
    ::close(hoard.back());
    hoard.pop_back();
    const Client late(server_.address());
    EXPECT_TRUE(Eventually([&] { return server_.stats().accept_errors >= errors + 2; }));
    EXPECT_TRUE(handler_.WaitFor([&] { return !handler_.warnings.empty(); }));
    EXPECT_LT(server_.stats().accept_errors, errors + 10) << "a busy loop";
    for (const int fd : hoard) ::close(fd);
    late.Send("at last");
    EXPECT_EQ(late.Receive(7), "at last");
  }
  ASSERT_TRUE(WaitForClosed(4));
  EXPECT_EQ(handler_.warnings.size(), 1U);
  ::setrlimit(RLIMIT_NOFILE, &before);
}

#endif  // _WIN32

}  // namespace
}  // namespace iocp::testing
