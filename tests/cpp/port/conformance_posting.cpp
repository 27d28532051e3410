// The rules of completion_port.h, R5: posting.
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "port_harness.h"

namespace iocp::testing {
namespace {

// Ends the process when its scope takes too long: somebody waits without a deadline and is not
// woken.
class Watchdog {
 public:
  Watchdog() : thread_([this] { Watch(); }) {}
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

 private:
  void Watch() {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kPatience, [this] { return over_; })) return;
    std::fputs("a worker that waits without a deadline was not woken\n", stderr);
    std::abort();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

struct Numbered : Posting {
  std::size_t thread = 0;
  std::size_t number = 0;
  std::atomic<int> came_out{0};
};

// Waits without a deadline, `handle`s what was posted, until that answers false.
template <class Handle>
void WaitForPostings(CompletionPort& port, std::size_t capacity, Handle handle) {
  std::vector<Completion> batch(capacity);
  for (bool go_on = true; go_on;) {
    const std::size_t count = port.Wait(batch.data(), batch.size(), kBatchBytes, TimePoint::max());
    for (std::size_t i = 0; i < count; ++i) {
      ASSERT_EQ(batch[i].operation, Operation::kPost);
      ASSERT_TRUE(batch[i].last);
      ASSERT_FALSE(batch[i].error);
      ASSERT_EQ(batch[i].socket, nullptr);
      if (!handle(static_cast<Numbered&>(*batch[i].posting))) go_on = false;
    }
  }
}

// R5 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R05_PostsOfManyThreadsComeOutOnceInTheirOrder) {
  if (!real()) GTEST_SKIP() << "this world has one thread";
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kPosts = 10'000;
  const Watchdog watchdog;
  PortDriver driver(world());
  std::vector<std::vector<Numbered>> postings;
  for (std::size_t t = 0; t < kThreads; ++t) postings.emplace_back(kPosts);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < kPosts; ++i) {
        postings[t][i].thread = t;
        postings[t][i].number = i;
        driver.port().Post(postings[t][i]);
        // Sometimes the worker has time to fall asleep.
        if (i % 512 == 0) std::this_thread::yield();
      }
    });
  }
  std::array<std::size_t, kThreads> next{};
  std::size_t count = 0;
  std::size_t out_of_order = 0;
  WaitForPostings(driver.port(), kBatchCompletions, [&](Numbered& posting) {
    EXPECT_EQ(posting.came_out.fetch_add(1), 0);
    if (posting.number != next[posting.thread]) ++out_of_order;
    next[posting.thread] = posting.number + 1;
    return ++count < kThreads * kPosts;
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, kThreads * kPosts);
  EXPECT_EQ(out_of_order, 0U);
  EXPECT_TRUE(driver.Settle());
  EXPECT_TRUE(driver.postings().empty()) << "one came out twice";
}

TEST_P(ConformanceTest, R05_EveryPostWakesASleeper) {
  if (!real()) GTEST_SKIP() << "this world has one thread";
  // The posting is posted again as soon as it has come out, and the worker goes to sleep a moment
  // later each time, so that the post meets every moment in which it is about to. Only one
  // posting: a second would wake the worker for the first.
  constexpr int kRounds = 60'000;
  const bool alone = std::thread::hardware_concurrency() < 2;
  const Watchdog watchdog;
  PortDriver driver(world());
  Numbered posting;
  std::thread thread([&] {
    for (int round = 0; round < kRounds; ++round) {
      driver.port().Post(posting);
      for (int spin = 1; posting.came_out.load() == round; ++spin) {
        if (alone || spin % 65536 == 0) std::this_thread::yield();
      }
    }
  });
  int count = 0;
  WaitForPostings(driver.port(), 1, [&](Numbered& out) {
    out.came_out.fetch_add(1);
    for (volatile int spin = count % 300; spin > 0;) spin = spin - 1;
    return ++count < kRounds;
  });
  thread.join();
}

TEST_P(ConformanceTest, R05_APostFromAnotherThreadEndsALongWait) {
  if (!real()) GTEST_SKIP() << "this world has one thread";
  const Watchdog watchdog;
  PortDriver driver(world());
  Posting posting;
  EXPECT_TRUE(driver.Settle());
  std::thread thread([&] { driver.port().Post(posting); });
  const TimePoint begin = driver.port().Now();
  while (driver.postings().empty()) driver.Turn(begin + std::chrono::hours(1));
  thread.join();
  EXPECT_EQ(driver.postings()[0], &posting);
}

TEST_P(ConformanceTest, R05_WhatTheWorkerPostsItselfComesOutOfTheNextWaits) {
  PortDriver driver(world());
  std::array<Posting, 3> postings;
  for (Posting& posting : postings) driver.port().Post(posting);
  EXPECT_TRUE(driver.postings().empty());
  // Even of one that may not wait.
  for (int i = 0; i < 8 && driver.postings().size() < postings.size(); ++i) {
    driver.Turn(TimePoint::min());
  }
  const std::vector<Posting*> expected = {&postings[0], &postings[1], &postings[2]};
  EXPECT_EQ(driver.postings(), expected);
}

TEST_P(ConformanceTest, R05_PostsThatNeverEndKeepNoSocketWaiting) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  ASSERT_NE(end.peer, nullptr);
  std::vector<Posting> postings(2 * kBatchCompletions);
  for (Posting& posting : postings) driver.port().Post(posting);
  end.peer_writing = "me too";
  driver.RunPeers();
  std::size_t posted_again = 0;
  for (int turn = 0; turn < 1000 && end.received.empty(); ++turn) {
    driver.Turn(TimePoint::min());
    for (; posted_again < driver.postings().size(); ++posted_again) {
      driver.port().Post(*driver.postings()[posted_again]);
    }
  }
  EXPECT_EQ(end.received, "me too");
  // The rest comes out before their memory goes.
  EXPECT_TRUE(driver.Settle());
}

}  // namespace
}  // namespace iocp::testing
