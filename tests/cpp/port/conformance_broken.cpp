// R11: ports that the system stops in the middle of their work. Linux, whose filters of system
// calls are of one thread: each test breaks the port of a thread of its own.
#include <atomic>
#include <chrono>
#include <string_view>
#include <thread>

#include "loopback.h"
#include "support/seccomp.h"

namespace iocp::testing {
namespace {

using std::chrono::milliseconds;

template <typename Body>
void InThread(Body body) {
  std::thread thread(body);
  thread.join();
}

bool AllEnded(const PortDriver& driver) {
  return !driver.accepting() && std::all_of(driver.ends().begin(), driver.ends().end(),
                                            [](const auto& end) { return end->Idle(); });
}

TEST_P(ConformanceTest, R11_WhatIsInFlightEndsOnceWhenTheSystemRefusesToWait) {
  InThread([&] {
    PortDriver driver(world());
    ServerEnd& idle = driver.Connect();
    ServerEnd& paused = driver.Connect();
    ServerEnd& sending = driver.Connect();
    ServerEnd& spoke = driver.Connect();
    spoke.peer_writing = "before";
    ASSERT_TRUE(driver.Until([&] { return spoke.received == "before"; }));
    driver.port().Pause(paused);
    sending.peer_reads = false;
    driver.Write(sending, Pattern(std::size_t{32} << 20U, 1));
    EXPECT_TRUE(driver.Settle());
    EXPECT_TRUE(sending.sending);

    ASSERT_TRUE(Refuse(CallsThatWait()));
    ASSERT_TRUE(driver.Until([&] { return AllEnded(driver); }));
    EXPECT_EQ(driver.broken().code, EPERM);
    EXPECT_EQ(driver.port().pending_accepts(), 0);
    EXPECT_EQ(sending.send_error.code, EPERM);
    for (const ServerEnd* end : {&idle, &paused, &sending, &spoke}) {
      EXPECT_EQ(end->end.code, EPERM);
      EXPECT_NE(end->end.kind, ErrorKind::kEndOfStream);
    }
    EXPECT_EQ(spoke.received, "before");
  });
}

TEST_P(ConformanceTest, R11_WhateverBeginsOnABrokenPortEnds) {
  InThread([&] {
    DriverOptions options;
    options.adopt = false;
    PortDriver driver(world(), options);
    const auto peer = driver.Dial();
    ASSERT_TRUE(driver.Until([&] { return driver.newcomers().size() == 1; }));
    ASSERT_TRUE(Refuse(CallsThatWait()));
    ASSERT_TRUE(driver.Until([&] { return !driver.accepting(); }));
    ServerEnd* end = driver.Adopt(driver.newcomers().back());
    driver.newcomers().clear();
    ASSERT_NE(end, nullptr);
    ASSERT_TRUE(driver.Until([&] { return end->Idle(); }));
    EXPECT_EQ(end->end.code, EPERM);
    const std::string much = Pattern(std::size_t{32} << 20U, 2);
    driver.Send(*end, much);
    EXPECT_TRUE(driver.Until([&] { return end->Idle(); }));
  });
}

TEST_P(ConformanceTest, R11_ABrokenPortSleepsAndIsWokenByAPost) {
  InThread([&] {
    PortDriver driver(world());
    driver.Connect();
    ASSERT_TRUE(Refuse(CallsThatWait()));
    ASSERT_TRUE(driver.Until([&] { return AllEnded(driver); }));

    int turns = 0;
    const auto processor = world().ProcessorTime();
    const TimePoint end_of_watch = driver.port().Now() + milliseconds(200);
    while (driver.port().Now() < end_of_watch) {
      driver.Turn(end_of_watch);
      ++turns;
    }
    EXPECT_LE(turns, 20) << "a busy loop";
    EXPECT_LT(world().ProcessorTime() - processor, milliseconds(100)) << "a busy loop";

    constexpr int kRounds = 1000;
    Posting posting;
    std::atomic<int> came_out{0};
    std::thread other([&] {
      for (int round = 0; round < kRounds; ++round) {
        driver.port().Post(posting);
        while (came_out.load() == round) std::this_thread::yield();
      }
    });
    const TimePoint give_up = driver.port().Now() + kPatience;
    while (came_out.load() < kRounds) {
      driver.Turn(give_up);
      came_out.store(static_cast<int>(driver.postings().size()));
      if (driver.port().Now() >= give_up) {
        ADD_FAILURE() << "a post did not wake it";
        came_out.store(kRounds);
      }
    }
    other.join();
  });
}

// Even where it may wait: a socket that it cannot stop to watch would wake it for ever.
TEST_P(ConformanceTest, R11_APortThatMayNotWatchSocketsAnyMoreIsBroken) {
  if (std::string_view(world().kind().name) != "epoll")
    GTEST_SKIP() << "only epoll watches sockets";
  InThread([&] {
    PortDriver driver(world());
    ServerEnd& paused = driver.Connect();
    driver.port().Pause(paused);
    ASSERT_TRUE(Refuse({SYS_epoll_ctl}));
    paused.peer_writing = "nobody listens";
    ASSERT_TRUE(driver.Until([&] { return AllEnded(driver); }));
    EXPECT_EQ(driver.broken().code, EPERM);
    EXPECT_EQ(paused.end.code, EPERM);
  });
}

}  // namespace
}  // namespace iocp::testing
