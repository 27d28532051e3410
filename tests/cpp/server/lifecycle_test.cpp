// Starting, stopping and waiting on a server's own threads: nobody waits for himself.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <stdexcept>

#include "support/backends.h"
#include "support/client.h"
#include "support/handlers.h"

namespace iocp {
namespace {

using testing::Client;
using testing::Eventually;
using testing::kDeadline;
using testing::RecordingHandler;

class LifecycleTest : public ::testing::TestWithParam<std::string> {
 protected:
  Options TestOptions() {
    Options options;
    options.port = 0;
    options.backend = GetParam();
    return options;
  }
};

TEST_P(LifecycleTest, WaitingInAHookAnswersAtOnce) {
  std::promise<bool> answer;
  RecordingHandler handler;
  Server server(handler);
  handler.on_read = [&](Connection&, Buffer&) {
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
    RecordingHandler handler;
    Server server(handler);
    handler.on_worker_begin = [&] {
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
    RecordingHandler handler;
    Server server(handler);
    std::atomic<int> ended{0};
    handler.on_worker_end = [&] {
      server.Shutdown();
      ++ended;
    };
    handler.on_stopped = [&] {
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
  RecordingHandler first_handler;
  RecordingHandler second_handler;
  Server first(first_handler);
  Server second(second_handler);
  // Not std::barrier: that of MinGW loses wake-ups.
  std::promise<void> in_first;
  std::promise<void> in_second;
  first_handler.on_read = [&](Connection&, Buffer&) {
    in_first.set_value();
    in_second.get_future().wait();
    second.Shutdown(Duration::zero());
  };
  second_handler.on_read = [&](Connection&, Buffer&) {
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

TEST_P(LifecycleTest, DestroyedInItsOwnHookItStopsBehindTheHook) {
  for (const int workers : {1, 3}) {
    RecordingHandler handler;
    auto server = std::make_unique<Server>(handler);
    std::promise<void> begin;
    std::atomic<bool> accepted{false};
    std::atomic<bool> stopped{false};
    handler.on_read = [&](Connection& connection, Buffer&) {
      begin.get_future().wait();
      server.reset();
      // The rest of the hook still has its connection, though another worker may be closing it.
      const SendResult result = connection.Send("bye", 3);
      EXPECT_NE(result, SendResult::kBacklogFull);
      accepted = result == SendResult::kAccepted;
    };
    handler.on_stopped = [&] {
      EXPECT_EQ(handler.records.size(), handler.closed);
      stopped = true;
    };
    Options options = TestOptions();
    options.workers = workers;
    ASSERT_TRUE(server->Start(options).ok());
    const Address address = server->address();
    {
      const Client other(address);
      const Client client(address);
      ASSERT_TRUE(handler.WaitFor([&] { return handler.records.size() == 2; }));
      ASSERT_TRUE(client.Send("x"));
      begin.set_value();
      const std::string received = client.Receive(4);
      EXPECT_EQ(received, accepted ? "bye" : "");
      EXPECT_EQ(other.WaitForEnd(), 0);
    }
    ASSERT_TRUE(Eventually([&] { return stopped.load(); }));
    EXPECT_EQ(handler.closed, 2U);
  }
}

TEST_P(LifecycleTest, TwoServersMayDestroyEachOther) {
  RecordingHandler first_handler;
  RecordingHandler second_handler;
  auto first = std::make_unique<Server>(first_handler);
  auto second = std::make_unique<Server>(second_handler);
  std::promise<void> in_first;
  std::promise<void> in_second;
  std::promise<void> begin;
  const std::shared_future<void> begun = begin.get_future().share();
  std::atomic<bool> first_stopped{false};
  std::atomic<bool> second_stopped{false};
  first_handler.on_read = [&](Connection&, Buffer&) {
    in_first.set_value();
    begun.wait();
    second.reset();
  };
  second_handler.on_read = [&](Connection&, Buffer&) {
    in_second.set_value();
    begun.wait();
    first.reset();
  };
  first_handler.on_stopped = [&] { first_stopped = true; };
  second_handler.on_stopped = [&] { second_stopped = true; };
  ASSERT_TRUE(first->Start(TestOptions()).ok());
  ASSERT_TRUE(second->Start(TestOptions()).ok());
  {
    const Client to_first(first->address());
    const Client to_second(second->address());
    ASSERT_TRUE(to_first.Send("x"));
    ASSERT_TRUE(to_second.Send("x"));
    in_first.get_future().wait();
    in_second.get_future().wait();
    begin.set_value();
    EXPECT_EQ(to_first.WaitForEnd(), 0);
    EXPECT_EQ(to_second.WaitForEnd(), 0);
  }
  ASSERT_TRUE(Eventually([&] { return first_stopped && second_stopped; }));
}

// With its handler, as when the last reference to both goes there.
TEST_P(LifecycleTest, MayBeDestroyedWhereItHasStopped) {
  struct Service : RecordingHandler {
    Server server{*this};
  };
  for (const int workers : {1, 3}) {
    auto service = std::make_unique<Service>();
    std::promise<void> begin;
    std::atomic<bool> destroyed{false};
    service->on_stopped = [&] {
      std::atomic<bool>& done = destroyed;  // what is captured goes with the handler
      EXPECT_FALSE(service->server.running());
      service.reset();
      done = true;
    };
    service->on_read = [&](Connection&, Buffer&) {
      begin.get_future().wait();
      service->server.Shutdown();
    };
    Options options = TestOptions();
    options.workers = workers;
    ASSERT_TRUE(service->server.Start(options).ok());
    {
      const Client client(service->server.address());
      ASSERT_TRUE(client.Send("x"));
      begin.set_value();
    }
    ASSERT_TRUE(Eventually([&] { return destroyed.load(); }));
  }
}

// Whoever joins the last worker waits for OnStopped, which must not wait for him.
TEST_P(LifecycleTest, CannotBeStartedWhereItHasStopped) {
  RecordingHandler handler;
  Server server(handler);
  std::promise<Status> answer;
  handler.on_stopped = [&] { answer.set_value(server.Start(TestOptions())); };
  ASSERT_TRUE(server.Start(TestOptions()).ok());
  server.Shutdown();
  EXPECT_EQ(answer.get_future().get().problem, Status::Problem::kAlreadyRunning);
  handler.on_stopped = nullptr;
  EXPECT_TRUE(server.Start(TestOptions()).ok());
}

TEST_P(LifecycleTest, CannotBeStartedInTheHookThatShutItDown) {
  std::promise<Status> answer;
  RecordingHandler handler;
  Server server(handler);
  handler.on_read = [&](Connection&, Buffer&) {
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
  RecordingHandler handler;
  Server server(handler);
  std::atomic<int> asked{0};
  const auto ask = [&] {
    EXPECT_TRUE(Server::OnWorkerThread());
    ++asked;
  };
  handler.on_worker_begin = handler.on_worker_end = handler.on_stopped = ask;
  handler.on_read = [&](Connection& connection, Buffer&) {
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
  class Throwing : public RecordingHandler {
   public:
    bool throws = true;

    [[nodiscard]] unsigned WantedHooks() const override {
      if (throws) throw std::runtime_error("not today");
      return kHookAll;
    }
  };
  Throwing handler;
  Server server(handler);
  handler.throws = false;
  Options options = TestOptions();
  ASSERT_TRUE(server.Start(options).ok());
  options.port = server.address().port;
  server.Shutdown();
  handler.throws = true;
  EXPECT_THROW(static_cast<void>(server.Start(options)), std::runtime_error);
  EXPECT_FALSE(server.running());
  handler.throws = false;
  const Status status = server.Start(options);
  EXPECT_TRUE(status.ok()) << "the port is still taken: " << status.message;
}

INSTANTIATE_TEST_SUITE_P(Ports, LifecycleTest, ::testing::ValuesIn(testing::AvailableBackends()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace iocp
