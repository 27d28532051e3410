// The server on the real ports: starting, stopping, and what a failure leaves behind.
#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "server_fixture.h"
#ifndef _WIN32
#include <sys/resource.h>
#endif

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

TEST_P(ServerTest, AFailedStartLeavesNothingBehind) {
  Start(On());
  Options taken = On();
  taken.port = server_.address().port;
  RecordingHandler second_handler;
  Server second(second_handler);
  ASSERT_FALSE(second.Start(taken).ok());
  const std::size_t before = CountDescriptors();
  for (int i = 0; i < 20; ++i) {
    const Status status = second.Start(taken);
    EXPECT_EQ(status.error.kind, ErrorKind::kAddressInUse);
    EXPECT_NE(status.message.find("bind"), std::string::npos) << status.message;
    EXPECT_NE(status.message.find(std::to_string(taken.port)), std::string::npos);
  }
  EXPECT_EQ(CountDescriptors(), before);
  EXPECT_FALSE(second.running());
  EXPECT_EQ(server_.Start(On()).problem, Status::Problem::kAlreadyRunning);
}

TEST_P(ServerTest, StartsAndStopsAnyNumberOfTimes) {
  for (int i = 0; i < 50; ++i) {
    StartEcho(On(1 + i % 3));
    Client client(server_.address());
    client.Send("again");
    ASSERT_EQ(client.Receive(5), "again");
    std::thread end([&] {
      EXPECT_EQ(client.WaitForEnd(), 0);
      client.Close();
    });
    server_.Shutdown();
    end.join();
    ASSERT_FALSE(server_.running());
    ASSERT_EQ(server_.connection_count(), 0U);
  }
  EXPECT_EQ(handler_.closed, 50U);
}

// If workers share a port, another one than the first may get the end, and earlier.
TEST_P(ServerTest, MayBeStoppedBeforeItsWorkersHaveTakenATurn) {
  for (int i = 0; i < 200; ++i) {
    StartEcho(On(4));
    server_.Shutdown(0s);
    ASSERT_FALSE(server_.running());
    ASSERT_EQ(server_.stats().pending_accepts, 0U);
  }
}

TEST_P(ServerTest, AsManyWorkersAsAskedForOnLoopbackByDefault) {
  struct CountingHandler : Handler {
    std::atomic<int> begun{0};
    std::atomic<int> ended{0};

    void OnWorkerBegin() override { ++begun; }
    void OnWorkerEnd() override { ++ended; }
  };
  for (const int workers : {1, 3, 5}) {
    CountingHandler handler;
    Server server(handler);
    ASSERT_TRUE(server.Start(On(workers)).ok());
    EXPECT_EQ(server.address().Host(), "127.0.0.1");
    EXPECT_TRUE(Eventually([&] { return handler.begun == workers; }));
    server.Shutdown(0s);
    EXPECT_EQ(handler.begun, workers);
    EXPECT_EQ(handler.ended, workers);
  }
}

TEST_P(ServerTest, ShutdownUnderLoadIsBoundedAndClosesEachOnce) {
  StartEcho(On(3));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::atomic<int> connected{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      std::vector<Client> clients;
      for (int i = 0; i < 50; ++i) clients.emplace_back(server_.address());
      connected += 50;
      const std::string data(10'000, 'l');
      while (!stop) {
        for (const Client& client : clients) {
          if (client.Send(data)) client.Receive(data.size());
        }
      }
    });
  }
  ASSERT_TRUE(Eventually([&] { return connected == 200; }));
  const auto began = std::chrono::steady_clock::now();
  server_.Shutdown(1s);
  EXPECT_LT(std::chrono::steady_clock::now() - began, 2s);
  const std::size_t established = handler_.records.size();
  EXPECT_EQ(handler_.closed, established);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(handler_.closed, established) << "a hook after shutdown";
}

TEST_P(ServerTest, ShutdownFromAHookReturnsAtOnceAndGoesOnBehindIt) {
  std::atomic<bool> returned{false};
  handler_.on_read = [&](Connection&, Buffer&) {
    EXPECT_FALSE(server_.stopping());
    server_.Shutdown(1s);
    EXPECT_TRUE(server_.stopping());
    returned = true;
  };
  Start(On(2));
  const Stopper stopper{server_};
  Client client(server_.address());
  client.Send("stop");
  EXPECT_EQ(client.WaitForEnd(), 0);
  client.Close();
  EXPECT_TRUE(server_.WaitUntilStopped(kDeadline));
  EXPECT_FALSE(server_.stopping());
  EXPECT_TRUE(returned);
  EXPECT_EQ(Only().closed, CloseReason::kShutdown);
  handler_.on_read = nullptr;
  Start(On());
}

TEST_P(ServerTest, ShutdownFromManyThreadsAtOnce) {
  StartEcho(On(2));
  const Client client(server_.address());
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { server_.Shutdown(500ms); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(server_.running());
  server_.Shutdown();
}

TEST_P(ServerTest, TheDestructorStopsAServerThatRunsAndWaitsForItsHooks) {
  RecordingHandler handler;
  auto server = std::make_unique<Server>(handler);
  std::atomic<bool> in_hook{false};
  std::atomic<bool> destroying{false};
  std::atomic<bool> hook_left{false};
  handler.on_read = [&](Connection&, Buffer&) {
    in_hook = true;
    EXPECT_TRUE(Eventually([&] { return destroying.load(); }));
    hook_left = true;
  };
  ASSERT_TRUE(server->Start(On(2)).ok());
  Client client(server->address());
  client.Send("stay");
  ASSERT_TRUE(Eventually([&] { return in_hook.load(); }));
  std::thread end([&] {
    EXPECT_EQ(client.WaitForEnd(), 0);
    client.Close();
  });
  destroying = true;
  server.reset();
  EXPECT_TRUE(hook_left);
  ASSERT_EQ(handler.closed, 1U);
  EXPECT_EQ(handler.records.begin()->second.closed, CloseReason::kShutdown);
  end.join();
}

#ifndef _WIN32  // has no limit of descriptors that a test could reach

TEST_P(ServerTest, AHostThatCannotBeResolvedIsTheResolversFailure) {
  Options options = On();
  options.host = "no.such.host.invalid";
  const Status status = server_.Start(options);
  EXPECT_EQ(status.problem, Status::Problem::kUnresolved);
  EXPECT_NE(status.error.code, 0);
}

// However few descriptors there are for it: the next one more gets it a step further.
TEST_P(ServerTest, EveryStepOfAStartThatFailsIsReportedAndUndone) {
  Start(On(2));  // what is made once in a process is there
  server_.Shutdown();
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const std::size_t descriptors = CountDescriptors();
  std::set<std::string> messages;
  bool started = false;
  for (rlim_t spare = 0; !started && spare < 40; ++spare) {
    const int next = ::dup(0);
    ::close(next);
    rlimit tight = before;
    tight.rlim_cur = static_cast<rlim_t>(next) + spare;
    ::setrlimit(RLIMIT_NOFILE, &tight);
    const Status status = server_.Start(On(2));
    ::setrlimit(RLIMIT_NOFILE, &before);
    started = status.ok();
    if (started) break;
    EXPECT_EQ(status.problem, Status::Problem::kSystem) << status.message;
    EXPECT_EQ(status.error.kind, ErrorKind::kOutOfResources) << status.message;
    EXPECT_EQ(status.error.code, EMFILE) << status.message;
    EXPECT_FALSE(server_.running());
    EXPECT_EQ(CountDescriptors(), descriptors) << status.message;
    messages.insert(status.message);
  }
  EXPECT_TRUE(started);
  EXPECT_GE(messages.size(), 2U) << "the socket and the ports are steps of their own";
  server_.Shutdown();
  EXPECT_EQ(CountDescriptors(), descriptors);
}

#endif  // _WIN32

}  // namespace
}  // namespace iocp::testing
