// The rules of completion_port.h, R6 and R7: how operations and sockets end.
#include "port_harness.h"

namespace iocp::testing {
namespace {

bool Ended(const ServerEnd& end) { return end.ended; }

// R6 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R06_CancelEndsAllThatIsInFlight) {
  PortDriver driver(world());
  driver.Connect();  // idle
  ServerEnd& paused = driver.Connect();
  ServerEnd& paused_with_data = driver.Connect();
  ServerEnd& with_data = driver.Connect();
  ServerEnd& sending = driver.Connect();
  ServerEnd& sending_paused = driver.Connect();
  for (ServerEnd* end : {&paused, &paused_with_data, &sending_paused}) driver.port().Pause(*end);
  const std::string much = Pattern(kMoreThanFits, 13);
  for (ServerEnd* end : {&sending, &sending_paused}) {
    end->peer_reads = false;
    driver.Write(*end, much);
  }
  EXPECT_TRUE(driver.Settle());
  paused_with_data.peer_writing = "unread";
  with_data.peer_writing = "unread";
  driver.RunPeers();
  for (const auto& end : driver.ends()) {
    EXPECT_TRUE(end->receiving);
    driver.Cancel(*end);
  }
  ASSERT_TRUE(driver.Until([&] {
    return std::all_of(driver.ends().begin(), driver.ends().end(),
                       [](const auto& end) { return end->Idle(); });
  }));
  for (const auto& end : driver.ends()) {
    EXPECT_TRUE(Ended(*end));
    EXPECT_EQ(end->end.kind, ErrorKind::kCancelled);
    EXPECT_NE(end->end.code, 0);
  }
  for (ServerEnd* end : {&sending, &sending_paused}) {
    EXPECT_TRUE(!end->send_error || end->send_error.kind == ErrorKind::kCancelled);
  }
  EXPECT_EQ(paused.received, "");
  EXPECT_TRUE(driver.Settle());
}

TEST_P(ConformanceTest, R06_CancelTwiceEndsOnceAndCancelOfNothingIsNothing) {
  PortDriver driver(world());
  driver.receive = false;
  ServerEnd& end = driver.Connect();
  const std::size_t before = driver.completions();
  driver.Cancel(end);
  driver.Cancel(end);
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.completions(), before);
  driver.Receive(end);
  driver.Cancel(end);
  driver.Cancel(end);
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  const std::size_t after = driver.completions();
  driver.Cancel(end);
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.completions(), after);
}

TEST_P(ConformanceTest, R06_CancelOfAReceiveLeavesTheSocketToSendOn) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  driver.Cancel(end);
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  const std::string all = Pattern(1'000'000, 14);
  driver.Write(end, all);
  ASSERT_TRUE(driver.Until([&] { return end.peer_received.size() >= all.size(); }));
  EXPECT_TRUE(IsSame(end.peer_received, all));
}

TEST_P(ConformanceTest, R06_CloseAfterCancelEndsTheStreamWithoutAReset) {
  PortDriver driver(world());
  ServerEnd& silent = driver.Connect();
  ServerEnd& talked = driver.Connect();
  talked.peer_writing = "data";
  driver.Write(talked, "more data");
  ASSERT_TRUE(driver.Until([&] { return talked.received == "data" && talked.AllWritten(); }));
  for (ServerEnd* end : {&silent, &talked}) {
    driver.Cancel(*end);
    ASSERT_TRUE(driver.Until([&] { return end->Idle(); }));
    driver.Close(*end, false);
    ASSERT_TRUE(driver.Until([&] { return end->peer->state() != Peer::State::kOpen; }));
    EXPECT_EQ(end->peer->state(), Peer::State::kEnded);
  }
  EXPECT_EQ(talked.peer_received, "more data");
}

TEST_P(ConformanceTest, R06_CloseWithResetResets) {
  PortDriver driver(world());
  ServerEnd& idle = driver.Connect();
  ServerEnd& full = driver.Connect();
  full.peer_reads = false;
  const std::string much = Pattern(kMoreThanFits, 15);
  driver.Write(full, much);
  EXPECT_TRUE(driver.Settle());
  for (ServerEnd* end : {&idle, &full}) {
    driver.Cancel(*end);
    ASSERT_TRUE(driver.Until([&] { return end->Idle(); }));
    driver.Close(*end, true);
    end->peer_reads = true;
    ASSERT_TRUE(driver.Until([&] { return end->peer->state() != Peer::State::kOpen; }));
    if (world().faithful_resets()) {
      EXPECT_EQ(end->peer->state(), Peer::State::kReset);
    }
  }
}

TEST_P(ConformanceTest, R06_DiscardClosesWhatWasNeverAdopted) {
  for (const bool reset : {false, true}) {
    DriverOptions options;
    options.adopt = false;
    PortDriver driver(world(), options);
    auto peer = driver.Dial();
    ASSERT_NE(peer, nullptr);
    ASSERT_TRUE(driver.Until([&] { return !driver.newcomers().empty(); }));
    driver.port().Discard(driver.newcomers()[0], reset);
    driver.newcomers().clear();
    ASSERT_TRUE(driver.Until([&] {
      (void)peer->Receive(1);
      return peer->state() != Peer::State::kOpen;
    }));
    const bool shown = reset && world().faithful_resets();
    EXPECT_EQ(peer->state(), shown ? Peer::State::kReset : Peer::State::kEnded);
  }
}

TEST_P(ConformanceTest, R06_ShutdownSendEndsOneDirectionOnly) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  driver.Write(end, "last words");
  ASSERT_TRUE(driver.Until([&] { return end.AllWritten(); }));
  driver.port().ShutdownSend(end);
  ASSERT_TRUE(driver.Until([&] { return end.peer->state() == Peer::State::kEnded; }));
  EXPECT_EQ(end.peer_received, "last words");
  end.peer_writing = Pattern(500'000, 16);
  ASSERT_TRUE(driver.Until([&] { return end.received.size() >= end.peer_writing.size(); }));
  end.peer->EndStream();
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_EQ(end.end.kind, ErrorKind::kEndOfStream);
  EXPECT_TRUE(IsSame(end.received, end.peer_writing));
}

TEST_P(ConformanceTest, R06_AClosedSocketsMemoryAndHandleMayBeUsedAgain) {
  // Events, results and cancellations of a closed socket must not reach the next one, which has the
  // same handle here and on many systems the same memory.
  PortDriver driver(world());
  for (std::uint32_t i = 0; i < 200; ++i) {
    ServerEnd& end = driver.Connect();
    end.peer_writing = Pattern(3000, i);
    end.peer_reads = i % 2 == 0;
    driver.RunPeers();
    if (i % 3 == 0) {
      ASSERT_TRUE(driver.Until([&] { return end.received.size() == 3000; }));
      EXPECT_TRUE(IsSame(end.received, end.peer_writing));
    } else {
      EXPECT_TRUE(IsPrefix(end.received, end.peer_writing));
    }
    driver.Abort(end);
  }
}

TEST_P(ConformanceTest, R06_AClosedSocketIsNotLookedAtAgain) {
  // Closed while the port still knows that there is something to be done for it: a small batch
  // leaves the others for later.
  PortDriver driver(world());
  for (std::size_t round = 0; round < 24; ++round) {
    std::vector<ServerEnd*> ends;
    driver.capacity = kBatchCompletions;
    for (int i = 0; i < 12; ++i) ends.push_back(&driver.Connect());
    for (ServerEnd* end : ends) end->peer_writing = "data";
    driver.RunPeers();
    driver.capacity = 1 + round % 4;
    for (std::size_t turn = 0; turn < 1 + round % 3; ++turn) driver.Turn(TimePoint::min());
    // Those that have had their turn first, or last.
    if (round % 2 == 0) std::reverse(ends.begin(), ends.end());
    for (ServerEnd* end : ends) driver.Cancel(*end);
    ASSERT_TRUE(driver.Until([&] {
      bool all_closed = true;
      for (ServerEnd* end : ends) {
        if (end->Idle() && !end->closed) driver.Close(*end, round % 3 == 0);
        all_closed = all_closed && end->closed;
      }
      return all_closed;
    }));
    for (int turn = 0; turn < 20; ++turn) driver.Turn(TimePoint::min());
  }
}

// R7 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R07_AResetIsNeverAnEndOfStream) {
  PortDriver driver(world());
  for (int i = 0; i < 50; ++i) {
    ServerEnd& end = driver.Connect();
    end.peer->Reset();
    ASSERT_TRUE(driver.Until([&] { return end.ended; }));
    ASSERT_EQ(end.end.kind, ErrorKind::kReset);
    EXPECT_NE(end.end.code, 0);
    driver.Close(end, true);
  }
}

TEST_P(ConformanceTest, R07_AResetBehindDataIsNeverAnEndOfStream) {
  PortDriver driver(world());
  for (std::uint32_t i = 0; i < 20; ++i) {
    ServerEnd& end = driver.Connect();
    const bool paused = i % 2 == 1;
    if (paused) driver.port().Pause(end);
    if (paused) {
      EXPECT_TRUE(driver.Settle());
    }
    const std::string sent = Pattern(100'000, i);
    EXPECT_GT(end.peer->Send(sent), 0U);
    end.peer->Reset();
    if (paused) driver.port().Resume(end);
    ASSERT_TRUE(driver.Until([&] { return end.ended; }));
    if (world().faithful_resets()) {
      ASSERT_EQ(end.end.kind, ErrorKind::kReset);
    }
    EXPECT_TRUE(IsPrefix(end.received, sent));
    driver.Close(end, true);
  }
}

TEST_P(ConformanceTest, R07_AResetEndsAWaitingSendAsWell) {
  PortDriver driver(world());
  const std::string much = Pattern(kMoreThanFits, 17);
  for (int i = 0; i < 10; ++i) {
    ServerEnd& end = driver.Connect();
    end.peer_reads = false;
    const bool paused = i % 2 == 1;
    if (paused) driver.port().Pause(end);
    driver.Write(end, much);
    ASSERT_TRUE(driver.Settle());
    ASSERT_TRUE(end.sending);
    end.peer->Reset();
    ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
    if (paused) driver.port().Resume(end);
    ASSERT_TRUE(driver.Until([&] { return end.ended; }));
    // Whichever of them finds it first leaves the other one in no doubt.
    EXPECT_EQ(end.send_error.kind, ErrorKind::kReset);
    EXPECT_EQ(end.end.kind, ErrorKind::kReset);
    driver.Close(end, true);
  }
}

TEST_P(ConformanceTest, R07_AResetThatOnlyASendSawIsAResetForTheReceiveToo) {
  PortDriver driver(world());
  driver.receive = false;
  ServerEnd& end = driver.Connect();
  end.peer->Reset();
  // On a network the first one may be gone before the reset has come.
  ASSERT_TRUE(driver.Until([&] {
    if (!end.sending && !end.send_error) driver.Send(end, "anybody there?");
    return static_cast<bool>(end.send_error);
  }));
  EXPECT_EQ(end.send_error.kind, ErrorKind::kReset);
  driver.Receive(end);
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_EQ(end.end.kind, ErrorKind::kReset);
}

TEST_P(ConformanceTest, R07_AResetThatOnlySendNowSawIsAResetForSendAndReceive) {
  PortDriver driver(world());
  if (!driver.port().sends_now()) GTEST_SKIP() << "this port leaves all bytes to Send";
  driver.receive = false;
  ServerEnd& end = driver.Connect();
  end.peer->Reset();
  const Piece piece{"anybody there?", 14};
  ASSERT_TRUE(driver.Until([&] { return driver.port().SendNow(end, &piece, 1) == 0; }));
  EXPECT_EQ(driver.port().SendNow(end, &piece, 1), 0U);
  driver.Send(end, &piece, 1);
  ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
  EXPECT_EQ(end.send_error.kind, ErrorKind::kReset);
  driver.Receive(end);
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_EQ(end.end.kind, ErrorKind::kReset);
}

TEST_P(ConformanceTest, R07_AResetThatOnlyAReceiveSawIsAResetForTheSendToo) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer->Reset();
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_EQ(end.end.kind, ErrorKind::kReset);
  const std::string two = "and another piece";
  const Piece pieces[] = {{"one piece", 9}, {two.data(), two.size()}};
  driver.Send(end, pieces, 2);
  ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
  EXPECT_EQ(end.send_error.kind, ErrorKind::kReset);
}

TEST_P(ConformanceTest, R07_TheEndOfStreamComesBehindAllTheData) {
  PortDriver driver(world());
  for (const bool paused : {false, true}) {
    ServerEnd& end = driver.Connect();
    if (paused) driver.port().Pause(end);
    // Small enough for the sockets, so that the end is there before the first byte is looked at.
    const std::string sent = Pattern(60'000, 18);
    ASSERT_EQ(end.peer->Send(sent), sent.size());
    end.peer->EndStream();
    if (paused) {
      EXPECT_TRUE(driver.Settle());
    }
    if (paused) driver.port().Resume(end);
    ASSERT_TRUE(driver.Until([&] { return end.ended; }));
    EXPECT_EQ(end.end.kind, ErrorKind::kEndOfStream);
    EXPECT_TRUE(IsSame(end.received, sent));
  }
}

TEST_P(ConformanceTest, R07_AHalfClosedPeerStillReceives) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer->EndStream();
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_EQ(end.end.kind, ErrorKind::kEndOfStream);
  const std::string all = Pattern(kMoreThanFits, 19);
  driver.Write(end, all);
  ASSERT_TRUE(driver.Until([&] { return end.AllWritten(); }));
  driver.port().ShutdownSend(end);
  ASSERT_TRUE(driver.Until([&] { return end.peer->state() != Peer::State::kOpen; }));
  EXPECT_EQ(end.peer->state(), Peer::State::kEnded);
  EXPECT_TRUE(IsSame(end.peer_received, all));
}

TEST_P(ConformanceTest, R07_ACancelThatComesTooLateChangesNothing) {
  // Both are true, so either may be reported; but only one of them, and never something else.
  PortDriver driver(world());
  for (int i = 0; i < 40; ++i) {
    ServerEnd& end = driver.Connect();
    const bool reset = i % 2 == 1;
    if (reset) {
      end.peer->Reset();
    } else {
      end.peer->EndStream();
    }
    if (i % 4 >= 2) driver.Turn(TimePoint::min());
    driver.Cancel(end);
    ASSERT_TRUE(driver.Until([&] { return end.Idle(); }));
    if (end.end.kind != ErrorKind::kCancelled) {
      EXPECT_EQ(end.end.kind, reset ? ErrorKind::kReset : ErrorKind::kEndOfStream);
    }
    driver.Close(end, true);
  }
}

}  // namespace
}  // namespace iocp::testing
