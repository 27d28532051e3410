// The server on the real ports: callbacks that come later.
#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "server_fixture.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

// Schedules what sets the promise, and waits for that.
template <typename Schedule>
bool Runs(Schedule schedule) {
  const auto done = std::make_shared<std::promise<void>>();
  schedule([done] { done->set_value(); });
  return done->get_future().wait_for(kDeadline) == std::future_status::ready;
}

// Each comes to a worker that sleeps, for an hour as far as it knows.
TEST_P(ServerTest, CallbacksWakeAWorkerThatSleeps) {
  Options options = On();
  options.first_data_timeout = std::nullopt;
  Start(options);
  const Stopper stopper{server_};
  const Client client(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
  Connection& connection = *Only().connection;
  server_.CallLater(1h, [] {});
  connection.CallLater(1h, [] {});
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(Runs([&](Callback callback) { server_.CallSoon(std::move(callback)); }));
    EXPECT_TRUE(Runs([&](Callback callback) { connection.CallSoon(std::move(callback)); }));
    EXPECT_TRUE(Runs([&](Callback callback) { server_.CallLater(1ms, std::move(callback)); }));
    EXPECT_TRUE(Runs([&](Callback callback) { connection.CallLater(1ms, std::move(callback)); }));
    ASSERT_FALSE(HasFailure());
  }
}

TEST_P(ServerTest, CallbacksOfManyThreadsRunOnceOrAreCancelled) {
  Start(On(2));
  const Stopper stopper{server_};
  const Client client(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
  Connection& connection = *Only().connection;
  constexpr int kThreads = 4;
  constexpr int kEach = 2000;
  std::atomic<int> calls{0};
  std::atomic<int> cancelled{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        const Duration delay = std::chrono::microseconds(100 * (i % 20));
        const Callback callback = [&] { calls.fetch_add(1); };
        const TimerHandle handle =
            i % 2 == 0 ? server_.CallLater(delay, callback) : connection.CallLater(delay, callback);
        if (i % 3 == 0 && handle.Cancel()) cancelled.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // Behind all others of each.
  EXPECT_TRUE(Runs([&](Callback callback) { server_.CallLater(5ms, std::move(callback)); }));
  EXPECT_TRUE(Runs([&](Callback callback) { connection.CallLater(5ms, std::move(callback)); }));
  EXPECT_EQ(calls + cancelled, kThreads * kEach);
  EXPECT_GT(cancelled, 0);
}

TEST_P(ServerTest, HandlesOutliveTheServerAndItsCallbacksDoNot) {
  const auto kept = std::make_shared<int>(0);
  std::vector<TimerHandle> handles;
  EXPECT_TRUE(server_.CallSoon([kept] { ++*kept; }).cancelled()) << "it does not run yet";
  Start(On(2));
  const Client client(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
  handles.push_back(server_.CallLater(1h, [kept] { ++*kept; }));
  handles.push_back(server_.CallEvery(1h, [kept] { ++*kept; }));
  handles.push_back(Only().connection->CallLater(1h, [kept] { ++*kept; }));
  handles.push_back(Only().connection->CallEvery(1h, [kept] { ++*kept; }));
  server_.Shutdown(0ms);
  EXPECT_EQ(kept.use_count(), 1);
  for (const TimerHandle& handle : handles) {
    EXPECT_TRUE(handle.cancelled());
    EXPECT_FALSE(handle.Cancel());
  }
  EXPECT_TRUE(server_.CallEvery(1ms, [kept] { ++*kept; }).cancelled());
  EXPECT_EQ(*kept, 0);
}

}  // namespace
}  // namespace iocp::testing
