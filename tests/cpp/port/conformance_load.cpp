// The rules of completion_port.h, R8 to R10: accepting, waiting, ending; and many connections at
// once.
#include <condition_variable>
#include <cstdio>
#include <cstdlib>

#include "port_harness.h"

namespace iocp::testing {
namespace {

using std::chrono::milliseconds;

// R8 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R08_ClientsThatResetAtOnceDoNotStopAccepting) {
  PortDriver driver(world());
  for (int i = 0; i < 600; ++i) {
    auto peer = driver.Dial();
    ASSERT_NE(peer, nullptr);
    // Some before they were accepted, some after.
    if (i % 3 == 0) driver.Turn(TimePoint::min());
    peer->Reset();
    if (i % 7 == 0) driver.Turn(TimePoint::min());
  }
  // Everybody who has reset was accepted: the next one may get a port that one of them had.
  ASSERT_TRUE(driver.Settle());
  ServerEnd& good = driver.Connect();
  good.peer_writing = "I am serious";
  ASSERT_TRUE(driver.Until([&] { return good.received == "I am serious"; }));
  EXPECT_TRUE(driver.accepting());
  EXPECT_GT(driver.port().pending_accepts(), 0);
  for (const Error& error : driver.accept_errors()) {
    EXPECT_EQ(error.kind, ErrorKind::kClientGone);
  }
  for (const auto& end : driver.ends()) {
    if (end.get() != &good && end->ended && world().faithful_resets()) {
      EXPECT_EQ(end->end.kind, ErrorKind::kReset);
    }
  }
}

TEST_P(ConformanceTest, R08_ExhaustionPausesAcceptingUntilResume) {
  if (!world().has_descriptor_limit()) GTEST_SKIP() << kNoDescriptorLimit;
  PortDriver driver(world());
  ServerEnd& old = driver.Connect();
  world().ExhaustDescriptors(true);
  auto newcomer = driver.Dial();
  EXPECT_TRUE(driver.Until([&] { return !driver.accept_errors().empty(); }));

  // Paused: whoever waits in the backlog costs nothing.
  const std::size_t errors = driver.accept_errors().size();
  const TimePoint end_of_watch = driver.port().Now() + milliseconds(200);
  const auto processor = world().ProcessorTime();
  int turns = 0;
  while (driver.port().Now() < end_of_watch) {
    driver.Turn(end_of_watch);
    ++turns;
  }
  EXPECT_LE(turns, 20) << "a busy loop";
  if (real()) {
    EXPECT_LT(world().ProcessorTime() - processor, milliseconds(100)) << "a busy loop";
  }
  EXPECT_EQ(driver.accept_errors().size(), errors);
  EXPECT_EQ(driver.port().pending_accepts(), 0);

  // Those who are in are served.
  old.peer_writing = "still here";
  EXPECT_TRUE(driver.Until([&] { return old.received == "still here"; }));
  driver.Write(old, "so am I");
  EXPECT_TRUE(driver.Until([&] { return old.peer_received == "so am I"; }));

  // Too early, and again too early.
  for (std::size_t i = 1; i <= 3; ++i) {
    driver.port().Resume(driver.listener());
    EXPECT_TRUE(driver.Until([&] { return driver.accept_errors().size() > errors; }));
    EXPECT_TRUE(driver.Settle());
    EXPECT_LE(driver.accept_errors().size(), errors + 4 * i);
  }
  for (const Error& error : driver.accept_errors()) {
    EXPECT_EQ(error.kind, ErrorKind::kOutOfResources);
    EXPECT_NE(error.code, 0);
  }

  world().ExhaustDescriptors(false);
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.accepts(), 1U);
  driver.port().Resume(driver.listener());
  ServerEnd* end = driver.Meet(std::move(newcomer));
  ASSERT_NE(end, nullptr);
  EXPECT_GT(driver.port().pending_accepts(), 0);
  end->peer_writing = "at last";
  EXPECT_TRUE(driver.Until([&] { return end->received == "at last"; }));
}

TEST_P(ConformanceTest, R08_CancelEndsAnAcceptThatExhaustionHasPaused) {
  if (!world().has_descriptor_limit()) GTEST_SKIP() << kNoDescriptorLimit;
  PortDriver driver(world());
  world().ExhaustDescriptors(true);
  auto newcomer = driver.Dial();
  EXPECT_TRUE(driver.Until([&] { return !driver.accept_errors().empty(); }));
  driver.CancelAccept();
  EXPECT_TRUE(driver.Until([&] { return !driver.accepting(); }));
  world().ExhaustDescriptors(false);
}

TEST_P(ConformanceTest, R08_PauseStopsAcceptingAndResumeGoesOn) {
  PortDriver driver(world());
  driver.port().Pause(driver.listener());
  EXPECT_TRUE(driver.Settle());
  // The system may have had a few accepts in hand.
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 32; ++i) peers.push_back(driver.Dial());
  EXPECT_TRUE(driver.Settle());
  const std::size_t in_hand = driver.accepts();
  EXPECT_LE(in_hand, 8U);
  for (int i = 0; i < 8; ++i) peers.push_back(driver.Dial());
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.accepts(), in_hand);
  EXPECT_EQ(driver.port().pending_accepts(), 0);
  driver.port().Resume(driver.listener());
  EXPECT_TRUE(driver.Until([&] { return driver.accepts() == peers.size(); }));
  EXPECT_TRUE(driver.accept_errors().empty());
}

TEST_P(ConformanceTest, R08_PauseAndResumeInQuickTurnsLoseNobody) {
  PortDriver driver(world());
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 200; ++i) {
    peers.push_back(driver.Dial());
    if (i % 2 == 0) driver.port().Pause(driver.listener());
    if (i % 5 == 0) driver.Turn(TimePoint::min());
    if (i % 3 == 0) driver.port().Resume(driver.listener());
  }
  driver.port().Resume(driver.listener());
  EXPECT_TRUE(driver.Until([&] { return driver.accepts() == peers.size(); }));
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.accepts(), peers.size());
}

TEST_P(ConformanceTest, R08_AcceptsMoreThanFitIntoABatchOrATurn) {
  DriverOptions options;
  options.capacity = 7;
  options.max_accepts = 5;
  PortDriver driver(world(), options);
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 300; ++i) peers.push_back(driver.Dial());
  EXPECT_TRUE(driver.Until([&] { return driver.accepts() == peers.size(); }));
}

TEST_P(ConformanceTest, R08_TheGateIsAskedBeforeAClientIsTakenFromTheSystem) {
  CountingGate gate(5);
  DriverOptions options;
  options.gate = &gate;
  PortDriver driver(world(), options);
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 64; ++i) peers.push_back(driver.Dial());
  const std::size_t before = world().OpenDescriptors();
  ASSERT_TRUE(driver.Until([&] { return driver.accepts() == 5; }));
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.accepts(), 5U) << "more than there was room for";
  EXPECT_EQ(gate.room, 0);
  if (world().has_descriptor_limit()) {
    EXPECT_LE(world().OpenDescriptors(), before + 5) << "the port accepts and does not say so";
  }
  // Without room Resume is in vain.
  driver.port().Resume(driver.listener());
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.accepts(), 5U);
  EXPECT_EQ(driver.port().pending_accepts(), 0);

  gate.room = 2;
  driver.port().Resume(driver.listener());
  ASSERT_TRUE(driver.Until([&] { return driver.accepts() == 7; }));
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.accepts(), 7U);
  gate.room = 1000;
  driver.port().Resume(driver.listener());
  EXPECT_TRUE(driver.Until([&] { return driver.accepts() == peers.size(); }));
  peers.push_back(driver.Dial());
  EXPECT_TRUE(driver.Until([&] { return driver.accepts() == peers.size(); }));
  driver.CancelAccept();
  EXPECT_TRUE(driver.Until([&] { return !driver.accepting(); }));
  EXPECT_EQ(gate.room, 1000 + 7 - static_cast<int>(peers.size())) << "room was lost";
  EXPECT_TRUE(driver.accept_errors().empty());
}

TEST_P(ConformanceTest, R08_CancelEndsListening) {
  PortDriver driver(world());
  driver.Connect();
  driver.CancelAccept();
  ASSERT_TRUE(driver.Until([&] { return !driver.accepting(); }));
  EXPECT_EQ(driver.port().pending_accepts(), 0);
  driver.CloseListener(driver.listener());
  EXPECT_EQ(world().Connect(driver.bound()), nullptr) << "somebody still listens";
}

// R9 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R09_ABatchIsBoundedInNumber) {
  for (const std::size_t capacity : {std::size_t{1}, std::size_t{3}, std::size_t{16}}) {
    DriverOptions options;
    options.capacity = capacity;
    PortDriver driver(world(), options);
    for (int i = 0; i < 40; ++i) driver.Connect();
    for (const auto& end : driver.ends()) {
      end->peer_writing = Pattern(5000, end->remote.port);
      driver.Write(*end, "greetings");
    }
    // The driver looks at the bound; here, that what did not fit comes later.
    EXPECT_TRUE(driver.Until([&] {
      return std::all_of(driver.ends().begin(), driver.ends().end(), [](const auto& end) {
        return end->received.size() >= 5000 && end->peer_received == "greetings";
      });
    }));
    for (const auto& end : driver.ends()) EXPECT_TRUE(IsSame(end->received, end->peer_writing));
  }
}

TEST_P(ConformanceTest, R09_ABatchIsBoundedInBytesButOneReceiveFits) {
  for (const std::size_t max_bytes : {std::size_t{100'000}, std::size_t{1}, std::size_t{0}}) {
    DriverOptions options;
    options.max_bytes = max_bytes;
    options.block_size = 16 * 1024;
    PortDriver driver(world(), options);
    for (int i = 0; i < 20; ++i) {
      driver.Connect();
      if (HasFailure()) return;
    }
    for (const auto& end : driver.ends()) end->peer_writing = Pattern(40'000, end->remote.port);
    driver.RunPeers();
    EXPECT_TRUE(driver.Until([&] {
      return std::all_of(driver.ends().begin(), driver.ends().end(),
                         [](const auto& end) { return end->received.size() >= 40'000; });
    })) << "with max_bytes "
        << max_bytes;
    for (const auto& end : driver.ends()) EXPECT_TRUE(IsPrefix(end->received, end->peer_writing));
  }
}

TEST_P(ConformanceTest, R09_ADeadlineThatHasPassedDoesNotBlock) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  const TimePoint begin = driver.port().Now();
  for (int i = 0; i < 100; ++i) {
    driver.Turn(TimePoint::min());
    driver.Turn(TimePoint{});
    driver.Turn(begin);
  }
  EXPECT_LT(driver.port().Now() - begin, std::chrono::seconds(2));
  // It looks at the system all the same.
  EXPECT_GT(end.peer->Send("quick"), 0U);
  EXPECT_TRUE(driver.Until([&] {
    driver.Turn(TimePoint::min());
    return end.received == "quick";
  }));
}

TEST_P(ConformanceTest, R09_HonoursItsTimeout) {
  PortDriver driver(world());
  driver.Connect();
  EXPECT_TRUE(driver.Settle());
  for (const auto timeout : {milliseconds(1), milliseconds(30), milliseconds(100)}) {
    const TimePoint begin = driver.port().Now();
    const TimePoint deadline = begin + timeout;
    int turns = 0;
    // It may return early, with nothing; but it does not go round and round.
    while (driver.port().Now() < deadline) {
      EXPECT_EQ(driver.Turn(deadline), 0U);
      ++turns;
    }
    EXPECT_LE(turns, 20);
    EXPECT_LT(driver.port().Now() - deadline, std::chrono::seconds(1));
  }
}

TEST_P(ConformanceTest, R09_AnIdlePortCostsNothing) {
  if (!real()) GTEST_SKIP() << "this world has no processor";
  PortDriver driver(world());
  // In all the states in which something could be reported for ever: readable and paused, ended,
  // broken, writable and nothing to write, and nothing of it wanted.
  ServerEnd& paused = driver.Connect();
  ServerEnd& paused_ended = driver.Connect();
  ServerEnd& paused_broken = driver.Connect();
  ServerEnd& ended = driver.Connect();
  ServerEnd& broken = driver.Connect();
  ServerEnd& waited = driver.Connect();
  for (ServerEnd* end : {&paused, &paused_ended, &paused_broken}) driver.port().Pause(*end);
  paused.peer_writing = "unread";
  waited.peer_reads = false;
  driver.Write(waited, Pattern(24 * 1024 * 1024, 1));
  EXPECT_TRUE(driver.Settle());
  waited.peer_reads = true;
  for (ServerEnd* end : {&paused_ended, &ended}) end->peer->EndStream();
  for (ServerEnd* end : {&paused_broken, &broken}) end->peer->Reset();
  ASSERT_TRUE(driver.Until([&] { return ended.ended && broken.ended && waited.AllWritten(); }));
  EXPECT_TRUE(driver.Settle());

  const TimePoint deadline = driver.port().Now() + milliseconds(200);
  const auto processor = world().ProcessorTime();
  int turns = 0;
  while (driver.port().Now() < deadline) {
    EXPECT_EQ(driver.Turn(deadline), 0U);
    ++turns;
  }
  EXPECT_LE(turns, 20) << "a busy loop";
  EXPECT_LT(world().ProcessorTime() - processor, milliseconds(100)) << "a busy loop";
}

// Many at once ---------------------------------------------------------------------------------

TEST_P(ConformanceTest, AThousandConnectionsEchoAtOnce) {
  constexpr std::size_t kConnections = 1000;
  constexpr std::size_t kBytes = 3000;
  PortDriver driver(world());
  std::vector<std::unique_ptr<Peer>> peers;
  for (std::size_t i = 0; i < kConnections; ++i) {
    peers.push_back(driver.Dial());
    ASSERT_NE(peers.back(), nullptr);
    if (i % 100 == 0) driver.Turn(TimePoint::min());
  }
  for (auto& peer : peers) ASSERT_NE(driver.Meet(std::move(peer)), nullptr);
  for (const auto& end : driver.ends()) end->peer_writing = Pattern(kBytes, end->remote.port);
  // Echoes what has come since the last send.
  std::map<ServerEnd*, std::string> in_flight;
  ASSERT_TRUE(driver.Until([&] {
    bool done = true;
    for (const auto& end : driver.ends()) {
      if (!end->sending && end->sent < end->received.size()) {
        std::string& bytes = in_flight[end.get()];
        bytes = end->received.substr(end->sent);
        driver.Send(*end, bytes);
      }
      done = done && end->peer_received.size() >= kBytes;
    }
    return done;
  }));
  for (const auto& end : driver.ends()) ASSERT_TRUE(IsSame(end->peer_received, end->peer_writing));
  // All gone at once as well.
  for (const auto& end : driver.ends()) end->peer->EndStream();
  ASSERT_TRUE(driver.Until([&] {
    return std::all_of(driver.ends().begin(), driver.ends().end(),
                       [](const auto& end) { return end->ended; });
  }));
  for (const auto& end : driver.ends()) ASSERT_EQ(end->end.kind, ErrorKind::kEndOfStream);
  EXPECT_EQ(driver.pool().in_use(), static_cast<std::size_t>(driver.pool().posted()));
}

TEST_P(ConformanceTest, APoolThatKeepsNothingLosesNothing) {
  for (const std::size_t max_free : {std::size_t{0}, std::size_t{1}}) {
    DriverOptions options;
    options.block_size = 512;
    options.max_free = max_free;
    PortDriver driver(world(), options);
    for (std::uint32_t i = 0; i < 50; ++i) {
      ServerEnd& end = driver.Connect();
      end.peer_writing = Pattern(60'000, i);
      end.keep_buffers = i % 2 == 0;
    }
    // All are to be read at once: a port with a few buffers for all of them runs out.
    driver.RunPeers();
    ASSERT_TRUE(driver.Until([&] {
      return std::all_of(driver.ends().begin(), driver.ends().end(),
                         [](const auto& end) { return end->received.size() >= 60'000; });
    }));
    for (const auto& end : driver.ends()) {
      EXPECT_TRUE(IsSame(end->received, end->peer_writing));
      end->kept.clear();
    }
    EXPECT_TRUE(driver.Settle());
    EXPECT_EQ(driver.pool().in_use(), static_cast<std::size_t>(driver.pool().posted()));
    EXPECT_LE(driver.pool().free(), max_free);
  }
}

TEST_P(ConformanceTest, BusyConnectionsKeepNoOtherWaiting) {
  PortDriver driver(world());
  constexpr std::size_t kBusy = 32;
  constexpr std::size_t kTurns = 1500;
  const std::string much = Pattern(1'000'000, 1);
  for (std::size_t i = 0; i < kBusy; ++i) driver.Connect().peer_writing = much;
  std::map<ServerEnd*, std::size_t> served;
  driver.on_received = [&](ServerEnd& end) {
    ++served[&end];
    end.received.clear();
  };
  // All of them send all the time, more than the port has buffers for.
  for (std::size_t turn = 0; turn < kTurns; ++turn) {
    for (const auto& end : driver.ends()) {
      if (end->peer_written == end->peer_writing.size()) end->peer_written = 0;
    }
    driver.RunPeers();
    driver.Turn(driver.port().Now() + milliseconds(1));
  }
  // Turn about, not necessarily alike: with room for a receive or more in each turn, each of them
  // could have had some fifty.
  std::size_t forgotten = 0;
  for (const auto& end : driver.ends()) {
    if (served[end.get()] < 4) ++forgotten;
  }
  EXPECT_EQ(forgotten, 0U) << "of " << kBusy << " were hardly ever received from";
}

TEST_P(ConformanceTest, AFloodKeepsNoQuietConnectionWaiting) {
  PortDriver driver(world());
  constexpr std::size_t kMostTurns = 200;
  const std::string much = Pattern(1'000'000, 1);
  ServerEnd& flood = driver.Connect();
  ServerEnd& quiet = driver.Connect();
  flood.peer_writing = much;
  std::size_t flooded = 0;
  driver.on_received = [&](ServerEnd& end) {
    if (&end != &flood) return;
    flooded += end.received.size();
    end.received.clear();
  };
  const auto turn = [&] {
    if (flood.peer_written == flood.peer_writing.size()) flood.peer_written = 0;
    driver.RunPeers();
    driver.Turn(driver.port().Now() + milliseconds(1));
  };
  for (std::size_t said = 1; said <= 20; ++said) {
    quiet.peer_writing += 'x';
    std::size_t turns = 0;
    while (quiet.received.size() < said && turns < kMostTurns) {
      turn();
      ++turns;
    }
    ASSERT_LT(turns, kMostTurns) << "byte " << said << " came not while " << flooded << " did";
  }
  EXPECT_GT(flooded, much.size());
}

// R10 ------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R10_TeardownLeavesNothingBehind) {
  const std::size_t before = world().OpenDescriptors();
  for (int round = 0; round < 10; ++round) {
    PortDriver driver(world());
    for (int i = 0; i < 20; ++i) {
      ServerEnd& end = driver.Connect();
      end.peer_writing = "some data";
      end.peer_reads = i % 2 == 0;
      driver.Write(end, Pattern(100'000, 1));
    }
    driver.Turn(TimePoint::min());
    // In every state there is: idle, sending, paused, ended, broken.
    driver.port().Pause(*driver.ends()[1]);
    driver.ends()[2]->peer->EndStream();
    driver.ends()[3]->peer->Reset();
    driver.Turn(TimePoint::min());
    driver.Finish();  // looks at the pool
    for (const auto& end : driver.ends()) end->peer->Close();
    EXPECT_EQ(world().OpenDescriptors(), before);
  }
}

TEST_P(ConformanceTest, R10_APortThatWasNeverUsedLeavesNothingBehind) {
  const std::size_t before = world().OpenDescriptors();
  BufferPool* pool = BufferPool::Create(4096, 10);
  PortOptions options;
  options.pool = pool;
  world().kind().create(options).reset();
  auto port = world().kind().create(options);
  ASSERT_FALSE(port->Open());
  port.reset();
  EXPECT_EQ(pool->in_use(), 0U);
  pool->Close();
  EXPECT_EQ(world().OpenDescriptors(), before);
}

TEST_P(ConformanceTest, R10_APortThatCouldNotOpenSaysWhyAndLeavesNothingBehind) {
  if (!world().has_descriptor_limit()) GTEST_SKIP() << kNoDescriptorLimit;
  const std::size_t before = world().OpenDescriptors();
  BufferPool* pool = BufferPool::Create(4096, 10);
  PortOptions options;
  options.pool = pool;
  auto port = world().kind().create(options);
  world().ExhaustDescriptors(true);
  const Error error = port->Open();
  world().ExhaustDescriptors(false);
  EXPECT_EQ(error.kind, ErrorKind::kOutOfResources);
  EXPECT_NE(error.code, 0);
  port.reset();
  EXPECT_EQ(pool->in_use(), 0U);
  pool->Close();
  EXPECT_EQ(world().OpenDescriptors(), before);
}

TEST_P(ConformanceTest, R10_TwoPortsShareNothing) {
  // A port may adopt a socket that another port of its kind accepted.
  DriverOptions options;
  options.adopt = false;
  PortDriver first(world(), options);
  PortDriver second(world());
  auto peer = first.Dial();
  ASSERT_NE(peer, nullptr);
  ASSERT_TRUE(first.Until([&] { return !first.newcomers().empty(); }));
  ServerEnd* end = second.Adopt(std::exchange(first.newcomers(), {})[0]);
  ASSERT_NE(end, nullptr);
  EXPECT_EQ(end->remote.port, peer->port());
  EXPECT_EQ(end->local.port, first.bound().port);
  end->peer = std::move(peer);
  first.Finish();
  end->peer_writing = Pattern(300'000, 1);
  const std::string all = Pattern(300'000, 2);
  second.Write(*end, all);
  ASSERT_TRUE(second.Until([&] {
    return end->received.size() >= end->peer_writing.size() &&
           end->peer_received.size() >= all.size();
  }));
  EXPECT_TRUE(IsSame(end->received, end->peer_writing));
  EXPECT_TRUE(IsSame(end->peer_received, all));
}

}  // namespace
}  // namespace iocp::testing
