// Starting, stopping and waiting on a server's own threads: nobody waits for himself.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <stdexcept>

#include "server_harness.h"

namespace iocp {
namespace {

using testing::Client;
using testing::kDeadline;
using testing::RecordingServer;

class LifecycleTest : public ::testing::TestWithParam<std::string> {
 protected:
  Options TestOptions() {
    Options options;
    options.port = 0;
    options.backend = GetParam();
    return options;
  }
};

// Calls what a test gives it on its worker threads.
class CallingServer : public Server {
 public:
  ~CallingServer() override { Shutdown(std::chrono::seconds(1)); }

  std::function<void()> on_worker_begin, on_worker_end, on_stopped;
  std::function<void(Connection&)> on_read;

 protected:
  void OnWorkerBegin() override {
    if (on_worker_begin) on_worker_begin();
  }
  void OnWorkerEnd() override {
    if (on_worker_end) on_worker_end();
  }
  void OnStopped() override {
    if (on_stopped) on_stopped();
  }
  void OnReadCompleted(Connection& connection, Buffer&) override {
    if (on_read) on_read(connection);
  }
};

TEST_P(LifecycleTest, WaitingInAHookAnswersAtOnce) {
  std::promise<bool> answer;
  CallingServer server;
  server.on_read = [&](Connection&) {
    server.Shutdown(Duration::zero());
    const bool at_once = server.WaitUntilStopped();
    answer.set_value(at_once || server.WaitUntilStopped(std::chrono::hours(1)));
  };
  ASSERT_TRUE(server.Start(TestOptions()).ok());
  const Client client(server.address());
  ASSERT_TRUE(client.Send("x"));
  std::future<bool> answered = answer.get_future();
  ASSERT_EQ(answered.wait_for(kDeadline), std::future_status::ready);
  EXPECT_FALSE(answered.get()) << "a server whose hook runs has not stopped";
  EXPECT_TRUE(server.WaitUntilStopped(kDeadline));
}

TEST_P(LifecycleTest, MayBeShutDownWhereAWorkerBegins) {
  for (const int workers : {1, 3}) {
    CallingServer server;
    server.on_worker_begin = [&] {
      server.Shutdown(Duration::zero());
      EXPECT_FALSE(server.WaitUntilStopped());
    };
    Options options = TestOptions();
    options.workers = workers;
    ASSERT_TRUE(server.Start(options).ok());
    EXPECT_TRUE(server.WaitUntilStopped(kDeadline));
  }
}

TEST_P(LifecycleTest, MayBeShutDownWhereAWorkerEnds) {
  for (const int workers : {1, 3}) {
    CallingServer server;
    std::atomic<int> ended{0};
    server.on_worker_end = [&] {
      server.Shutdown();
      ++ended;
    };
    server.on_stopped = [&] {
      server.Shutdown();
      EXPECT_TRUE(server.WaitUntilStopped());
    };
    Options options = TestOptions();
    options.workers = workers;
    ASSERT_TRUE(server.Start(options).ok());
    server.Shutdown();
    EXPECT_EQ(ended, workers);
  }
}

TEST_P(LifecycleTest, TwoServersMayShutEachOtherDown) {
  CallingServer first;
  CallingServer second;
  // Not std::barrier: that of MinGW loses wake-ups.
  std::promise<void> in_first;
  std::promise<void> in_second;
  first.on_read = [&](Connection&) {
    in_first.set_value();
    in_second.get_future().wait();
    second.Shutdown(Duration::zero());
  };
  second.on_read = [&](Connection&) {
    in_second.set_value();
    in_first.get_future().wait();
    first.Shutdown(Duration::zero());
  };
  ASSERT_TRUE(first.Start(TestOptions()).ok());
  ASSERT_TRUE(second.Start(TestOptions()).ok());
  const Client to_first(first.address());
  const Client to_second(second.address());
  ASSERT_TRUE(to_first.Send("x"));
  ASSERT_TRUE(to_second.Send("x"));
  EXPECT_TRUE(first.WaitUntilStopped(kDeadline));
  EXPECT_TRUE(second.WaitUntilStopped(kDeadline));
}

// Whoever joins the last worker waits for OnStopped, which must not wait for him.
TEST_P(LifecycleTest, CannotBeStartedWhereItHasStopped) {
  CallingServer server;
  std::promise<Status> answer;
  server.on_stopped = [&] { answer.set_value(server.Start(TestOptions())); };
  ASSERT_TRUE(server.Start(TestOptions()).ok());
  server.Shutdown();
  EXPECT_EQ(answer.get_future().get().problem, Status::Problem::kAlreadyRunning);
  server.on_stopped = nullptr;
  EXPECT_TRUE(server.Start(TestOptions()).ok());
}

TEST_P(LifecycleTest, CannotBeStartedInTheHookThatShutItDown) {
  std::promise<Status> answer;
  CallingServer server;
  server.on_read = [&](Connection&) {
    server.Shutdown(Duration::zero());
    answer.set_value(server.Start(TestOptions()));
  };
  ASSERT_TRUE(server.Start(TestOptions()).ok());
  const Client client(server.address());
  ASSERT_TRUE(client.Send("x"));
  std::future<Status> answered = answer.get_future();
  ASSERT_EQ(answered.wait_for(kDeadline), std::future_status::ready);
  EXPECT_EQ(answered.get().problem, Status::Problem::kAlreadyRunning);
  EXPECT_TRUE(server.WaitUntilStopped(kDeadline));
}

TEST_P(LifecycleTest, AWorkerThreadIsOneForItsWholeLife) {
  CallingServer server;
  std::atomic<int> asked{0};
  const auto ask = [&] {
    EXPECT_TRUE(Server::OnWorkerThread());
    ++asked;
  };
  server.on_worker_begin = server.on_worker_end = server.on_stopped = ask;
  server.on_read = [&](Connection& connection) {
    ask();
    connection.Close();
  };
  ASSERT_TRUE(server.Start(TestOptions()).ok());
  EXPECT_FALSE(Server::OnWorkerThread());
  const Client client(server.address());
  ASSERT_TRUE(client.Send("x"));
  EXPECT_EQ(client.WaitForEnd(), 0);
  server.Shutdown(Duration::zero());
  EXPECT_EQ(asked, 4);
  EXPECT_FALSE(Server::OnWorkerThread());
}

TEST_P(LifecycleTest, WhatWantedHooksThrowsLeavesNothingBehind) {
  class Throwing : public RecordingServer {
   public:
    bool throws = true;

   protected:
    [[nodiscard]] unsigned WantedHooks() const override {
      if (throws) throw std::runtime_error("not today");
      return kHookAll;
    }
  };
  Throwing server;
  server.throws = false;
  Options options = TestOptions();
  ASSERT_TRUE(server.Start(options).ok());
  options.port = server.address().port;
  server.Shutdown();
  server.throws = true;
  EXPECT_THROW(static_cast<void>(server.Start(options)), std::runtime_error);
  EXPECT_FALSE(server.running());
  server.throws = false;
  const Status status = server.Start(options);
  EXPECT_TRUE(status.ok()) << "the port is still taken: " << status.message;
}

INSTANTIATE_TEST_SUITE_P(Ports, LifecycleTest, ::testing::ValuesIn(testing::AvailableBackends()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace iocp
