// The conformance suite: what a port answers when a deadline has passed (R12), and how a connection
// breaks while it is paused.
#include "port_harness.h"

namespace iocp::testing {
namespace {

using std::chrono::milliseconds;

// More than two sockets and the system between them hold.
constexpr std::size_t kMoreThanFits = std::size_t{32} * 1024 * 1024;

bool ReceiveAtHand(PortDriver& driver, ServerEnd& end) {
  return driver.port().ReceiveAtHand(end, end.next_in_order + end.early.size());
}

// The network may take its time; the port is not asked to Wait.
template <class Done>
bool Soon(PortDriver& driver, Done done) {
  const TimePoint give_up = driver.port().Now() + kPatience;
  while (!done()) {
    driver.RunPeers();
    if (driver.port().Now() >= give_up) return false;
  }
  return true;
}

TEST_P(ConformanceTest, R12_OfASilentPeerNothingIsAtHand) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  EXPECT_TRUE(driver.Settle());
  EXPECT_FALSE(ReceiveAtHand(driver, end));
  end.peer_writing = "not silent";
  ASSERT_TRUE(driver.Until([&] { return end.received == "not silent"; }));
  EXPECT_TRUE(driver.Settle());
  EXPECT_FALSE(ReceiveAtHand(driver, end));
}

TEST_P(ConformanceTest, R12_WhatAPeerHasDoneIsAtHandUntilWaitBringsIt) {
  PortDriver driver(world());
  ServerEnd& speaker = driver.Connect();
  ServerEnd& leaver = driver.Connect();
  ServerEnd& breaker = driver.Connect();
  ServerEnd& silent = driver.Connect();
  EXPECT_TRUE(driver.Settle());
  speaker.peer->Send("x");
  leaver.peer->EndStream();
  breaker.peer->Reset();
  for (ServerEnd* end : {&speaker, &leaver, &breaker}) {
    EXPECT_TRUE(Soon(driver, [&] { return ReceiveAtHand(driver, *end); }));
  }
  EXPECT_FALSE(ReceiveAtHand(driver, silent));
  ASSERT_TRUE(
      driver.Until([&] { return !speaker.received.empty() && leaver.ended && breaker.ended; }));
  EXPECT_TRUE(driver.Settle());
  EXPECT_FALSE(ReceiveAtHand(driver, speaker));
}

// A batch has room for one completion, so that what the others sent waits, in the system or in the
// port: nobody may be taken for silent at any time.
TEST_P(ConformanceTest, R12_NobodyWhoSpokeIsTakenForSilentWhileOthersAreServed) {
  constexpr std::size_t kPeers = 40;
  PortDriver driver(world());
  for (std::size_t i = 0; i < kPeers; ++i) driver.Connect();
  EXPECT_TRUE(driver.Settle());
  driver.capacity = 1;
  for (int round = 1; round <= 5; ++round) {
    const auto expected = static_cast<std::size_t>(round);
    for (const auto& end : driver.ends()) EXPECT_EQ(end->peer->Send("x"), 1U);
    for (const auto& end : driver.ends()) {
      EXPECT_TRUE(Soon(driver, [&] { return ReceiveAtHand(driver, *end); }));
    }
    const auto served = [&] {
      return std::all_of(driver.ends().begin(), driver.ends().end(),
                         [&](const auto& end) { return end->received.size() == expected; });
    };
    ASSERT_TRUE(driver.Until([&] {
      for (const auto& end : driver.ends()) {
        if (end->received.size() == expected) continue;
        EXPECT_TRUE(ReceiveAtHand(driver, *end)) << "it spoke, and nobody knows";
      }
      return served();
    }));
  }
}

TEST_P(ConformanceTest, R12_ASendIsAtHandOnceThePeerMakesRoom) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer_reads = false;
  const std::string much = Pattern(kMoreThanFits, 31);
  driver.Write(end, much);
  ASSERT_TRUE(driver.Settle());
  ASSERT_TRUE(end.sending);
  EXPECT_FALSE(driver.port().SendAtHand(end));
  end.peer_reads = true;
  EXPECT_TRUE(Soon(driver, [&] { return driver.port().SendAtHand(end); }));
  ASSERT_TRUE(driver.Until([&] { return end.AllWritten(); }));
}

TEST_P(ConformanceTest, R12_WhatAPeerHasNotTakenIsUnacknowledged) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  EXPECT_FALSE(driver.port().Unacknowledged(end));
  driver.Write(end, "taken");
  ASSERT_TRUE(driver.Until([&] { return end.AllWritten() && end.peer_received == "taken"; }));
  EXPECT_TRUE(Soon(driver, [&] { return !driver.port().Unacknowledged(end); }));
  end.peer_reads = false;
  if (world().knows_unacknowledged()) {
    const std::string much = Pattern(kMoreThanFits, 32);
    driver.Write(end, much);
    ASSERT_TRUE(driver.Settle());
    EXPECT_TRUE(driver.port().Unacknowledged(end));
    end.peer_reads = true;
    ASSERT_TRUE(driver.Until([&] { return end.AllWritten(); }));
    EXPECT_TRUE(Soon(driver, [&] { return !driver.port().Unacknowledged(end); }));
  }
  // The end of the stream is not data.
  driver.port().ShutdownSend(end);
  EXPECT_FALSE(driver.port().Unacknowledged(end));
}

TEST_P(ConformanceTest, R12_WhoHasTakenAllAndStaysIsNotUnacknowledged) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  driver.Write(end, "all there is");
  ASSERT_TRUE(driver.Until([&] { return end.AllWritten(); }));
  driver.port().ShutdownSend(end);
  ASSERT_TRUE(driver.Until([&] { return end.peer->state() == Peer::State::kEnded; }));
  EXPECT_TRUE(Soon(driver, [&] { return !driver.port().Unacknowledged(end); }));
}

TEST_P(ConformanceTest, R07_AResetEndsAReceiveThatIsPaused) {
  if (!world().sees_resets_while_paused()) GTEST_SKIP() << "this system does not report it";
  PortDriver driver(world());
  for (int i = 0; i < 20; ++i) {
    ServerEnd& end = driver.Connect();
    driver.port().Pause(end);
    EXPECT_TRUE(driver.Settle());
    if (i % 2 == 1) end.peer->Send(Pattern(10'000, 3));
    EXPECT_TRUE(driver.Settle());
    end.peer->Reset();
    ASSERT_TRUE(driver.Until([&] { return end.ended; }));
    EXPECT_EQ(end.end.kind, ErrorKind::kReset);
    // Once.
    const std::size_t completions = driver.completions();
    EXPECT_TRUE(driver.Settle());
    EXPECT_EQ(driver.completions(), completions);
    driver.Close(end, true);
  }
}

TEST_P(ConformanceTest, R07_AResetBehindTheEndOfTheStreamEndsAReceiveThatIsPaused) {
  if (!world().sees_resets_while_paused()) GTEST_SKIP() << "this system does not report it";
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer_reads = false;
  driver.port().Pause(end);
  EXPECT_TRUE(driver.Settle());
  driver.Write(end, Pattern(10'000, 4));
  ASSERT_TRUE(driver.Until([&] { return end.AllWritten(); }));
  end.peer->EndStream();
  EXPECT_TRUE(driver.Settle());
  if (end.ended) return;  // by a receive that was posted before the pause
  end.peer->Reset();
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_EQ(end.end.kind, ErrorKind::kReset);
}

TEST_P(ConformanceTest, AnEndInOrderWaitsForResumeAndCostsNothingMeanwhile) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  driver.port().Pause(end);
  EXPECT_TRUE(driver.Settle());
  driver.port().ShutdownSend(end);
  end.peer->EndStream();
  EXPECT_TRUE(driver.Settle());
  const auto before = world().ProcessorTime();
  const TimePoint until = driver.port().Now() + milliseconds(100);
  while (driver.port().Now() < until) driver.Turn(until);
  EXPECT_LT(world().ProcessorTime() - before, milliseconds(50)) << "a busy loop";
  driver.port().Resume(end);
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_EQ(end.end.kind, ErrorKind::kEndOfStream);
}

TEST_P(ConformanceTest, PausedReceivesAreCancelledLikeOthers) {
  PortDriver driver(world());
  for (int i = 0; i < 20; ++i) {
    ServerEnd& end = driver.Connect();
    driver.port().Pause(end);
    if (i % 2 == 1) {
      EXPECT_TRUE(driver.Settle());
    }
    driver.Cancel(end);
    ASSERT_TRUE(driver.Until([&] { return end.Idle(); }));
    EXPECT_EQ(end.end.kind, ErrorKind::kCancelled);
    driver.Close(end, false);
    ASSERT_TRUE(driver.Until([&] { return end.peer->state() == Peer::State::kEnded; }));
  }
}

}  // namespace
}  // namespace iocp::testing
