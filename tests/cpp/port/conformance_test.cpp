// The rules of completion_port.h, R1 to R4: what a port does for one socket that is open.
// The other rules are in the files beside this one, the systems' own in conformance_posix.cpp.
// PortDriver checks in every test what always holds: exactly once, sequences, the bounds of a
// batch, nothing left behind.
#include <array>

#include "port_harness.h"

namespace iocp::testing {
namespace {

using std::chrono::milliseconds;

// R1 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R01_ExactlyOnceOnlyOutOfWait) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer_writing = "ping";
  ASSERT_TRUE(driver.Until([&] { return end.received == "ping"; }));

  // The batch is the caller's again once Wait has returned: no call writes to it.
  std::array<Completion, 4> batch;
  for (Completion& completion : batch) completion.bytes = 4711;
  end.sending = true;
  end.asked = 4;
  const Piece piece{"pong", 4};
  driver.port().Send(end, &piece, 1);
  driver.port().Pause(end);
  driver.port().Resume(end);
  for (const Completion& completion : batch) EXPECT_EQ(completion.bytes, 4711U);
  EXPECT_TRUE(end.sending);

  ASSERT_TRUE(driver.Until([&] { return !end.sending && end.peer_received == "pong"; }));
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(end.sends, 1U);
  EXPECT_EQ(end.sent, 4U);
  EXPECT_EQ(end.receives, 1U);
}

TEST_P(ConformanceTest, R01_AcceptAndReceiveEndWithExactlyOneLast) {
  PortDriver driver(world());
  ServerEnd& orderly = driver.Connect();
  ServerEnd& broken = driver.Connect();
  ServerEnd& cancelled = driver.Connect();
  for (ServerEnd* end : {&orderly, &broken, &cancelled}) end->peer_writing = "data";
  ASSERT_TRUE(driver.Until([&] {
    return std::all_of(driver.ends().begin(), driver.ends().end(),
                       [](const auto& end) { return end->received == "data"; });
  }));
  // A reset that comes between two calls of Wait finds nobody who receives.
  if (!world().faithful_resets()) {
    EXPECT_TRUE(driver.Settle());
  }
  orderly.peer->EndStream();
  broken.peer->Reset();
  driver.Cancel(cancelled);
  driver.CancelAccept();
  ASSERT_TRUE(driver.Until(
      [&] { return !driver.accepting() && orderly.ended && broken.ended && cancelled.ended; }));
  EXPECT_EQ(orderly.end.kind, ErrorKind::kEndOfStream);
  EXPECT_EQ(broken.end.kind, ErrorKind::kReset);
  EXPECT_EQ(cancelled.end.kind, ErrorKind::kCancelled);
  // The driver fails on any completion of theirs from now on.
  const std::size_t seen = driver.completions();
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(driver.completions(), seen);
}

TEST_P(ConformanceTest, R01_SendEndsOnceHoweverItEnds) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  driver.Send(end, "one");
  ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
  EXPECT_FALSE(end.send_error);
  driver.Send(end, "two");  // at once after the first, from its completion as it were
  ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
  ASSERT_TRUE(driver.Until([&] { return end.peer_received == "onetwo"; }));
  end.peer->Reset();
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  driver.Send(end, "three");
  ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
  EXPECT_EQ(end.send_error.kind, ErrorKind::kReset);
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(end.sends, 3U);
}

// R2 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R02_BytesOfASendAreNotTouchedAfterItsCompletion) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  const std::string original = Pattern(kMoreThanFits, 2);
  std::string bytes = original;
  std::size_t written = 0;
  while (written < bytes.size()) {
    // Not touched before, either: the peer reads only while nothing is being overwritten.
    const std::size_t before = end.sent;
    driver.Send(end, std::string_view(bytes).substr(written));
    ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
    ASSERT_FALSE(end.send_error);
    const std::size_t taken = end.sent - before;
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(written), taken, '!');
    written += taken;
  }
  ASSERT_TRUE(driver.Until([&] { return end.peer_received.size() >= original.size(); }));
  EXPECT_TRUE(IsSame(end.peer_received, original));
}

TEST_P(ConformanceTest, R02_CancelledSendEndsOnceAndTellsWhatWasTaken) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer_reads = false;
  const std::string original = Pattern(kMoreThanFits, 3);
  auto bytes = std::make_unique<std::string>(original);
  // Until a send has to wait for a peer that does not read.
  do {
    driver.Send(end, std::string_view(*bytes).substr(end.sent));
    ASSERT_TRUE(driver.Settle());
  } while (!end.sending && end.sent < bytes->size());
  ASSERT_TRUE(end.sending) << "the sockets took everything";
  const std::size_t sends = end.sends;
  driver.Cancel(end);
  ASSERT_TRUE(driver.Until([&] { return end.Idle(); }));
  EXPECT_EQ(end.sends, sends + 1);
  // It had taken some of them before it was cancelled, or it had not.
  if (end.send_error) {
    EXPECT_EQ(end.send_error.kind, ErrorKind::kCancelled);
  }
  // From here on nobody looks at the bytes.
  bytes->assign(bytes->size(), '!');
  bytes.reset();
  end.peer_reads = true;
  driver.port().ShutdownSend(end);
  ASSERT_TRUE(driver.Until([&] { return end.peer->state() != Peer::State::kOpen; }));
  EXPECT_EQ(end.peer->state(), Peer::State::kEnded);
  EXPECT_EQ(end.peer_received.size(), end.sent) << "the port reported wrongly what the system took";
  EXPECT_TRUE(IsPrefix(end.peer_received, original));
}

TEST_P(ConformanceTest, R02_ReceivedBytesStayWhileABufferIsHeld) {
  std::vector<Buffer> kept;
  std::string received;
  const std::string sent = Pattern(3'000'000, 4);
  {
    DriverOptions options;
    options.block_size = 4096;
    options.max_free = 4;
    PortDriver driver(world(), options);
    ServerEnd& keeper = driver.Connect();
    ServerEnd& other = driver.Connect();
    keeper.keep_buffers = true;
    keeper.peer_writing = sent;
    other.peer_writing = Pattern(3'000'000, 5);
    ASSERT_TRUE(driver.Until([&] {
      return keeper.received.size() >= sent.size() && other.received.size() >= sent.size();
    }));
    std::string all;
    for (const Buffer& buffer : keeper.kept) all += buffer.view();
    EXPECT_TRUE(IsSame(all, sent)) << "held bytes were overwritten";
    EXPECT_TRUE(IsSame(other.received, other.peer_writing));
  }
}

TEST_P(ConformanceTest, R02_ABufferOutlivesItsPortAndPool) {
  BufferPool* pool = BufferPool::Create(4096, 10);
  Buffer kept;
  {
    PortOptions options;
    options.pool = pool;
    auto port = world().kind().create(options);
    ASSERT_FALSE(port->Open());
    Socket listener;
    Address bound;
    ASSERT_TRUE(world().kind().listen({}, &listener.handle, &bound).ok());
    ASSERT_FALSE(port->Accept(listener));
    auto peer = world().Connect(bound);
    ASSERT_NE(peer, nullptr);
    EXPECT_EQ(peer->Send("for long"), 8U);
    Socket socket;
    Address local;
    Address remote;
    int ended = 0;
    std::array<Completion, 8> batch;
    const TimePoint give_up = port->Now() + kPatience;
    while (ended < 2 && port->Now() < give_up) {
      const std::size_t count = port->Wait(batch.data(), batch.size(), kBatchBytes, give_up);
      for (std::size_t i = 0; i < count; ++i) {
        Completion completion = std::exchange(batch[i], Completion{});
        if (completion.accepted != kNoSocket) {
          ASSERT_FALSE(port->Adopt(socket, completion.accepted, &local, &remote));
          port->Receive(socket);
        }
        if (completion.last) ++ended;
        if (completion.buffer.size() == 0) continue;
        kept = std::move(completion.buffer);
        port->Cancel(socket);
        port->Cancel(listener);
      }
    }
    ASSERT_EQ(ended, 2);
    port->Close(socket, true);
    const NativeSocket listening = listener.handle;
    port->Close(listener, false);
    world().kind().close_listener(listening);
  }
  EXPECT_EQ(pool->in_use(), 1U);
  pool->Close();
  EXPECT_EQ(kept.view(), "for long");
}

// R3 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R03_SequencesCountUpToTheEndOfStream) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  std::string sent;
  for (std::uint32_t i = 0; i < 20; ++i) {
    sent += end.peer_writing = Pattern(100 + i, i);
    end.peer_written = 0;
    ASSERT_TRUE(driver.Until([&] { return end.received.size() == sent.size(); }));
  }
  end.peer->EndStream();
  ASSERT_TRUE(driver.Until([&] { return end.ended; }));
  EXPECT_TRUE(IsSame(end.received, sent));
  EXPECT_GE(end.receives, 20U);
  // The end had the place behind the last data, and nothing is missing before it.
  EXPECT_EQ(end.ended_at, end.receives);
  EXPECT_TRUE(end.early.empty());
}

TEST_P(ConformanceTest, R03_AnIdleConnectionHoldsNoBuffer) {
  PortDriver driver(world());
  constexpr std::size_t kConnections = 200;
  for (std::size_t i = 0; i < kConnections; ++i) {
    ServerEnd& end = driver.Connect();
    end.peer_writing = "hello";
    ASSERT_TRUE(driver.Until([&] { return end.received == "hello"; }));
  }
  EXPECT_TRUE(driver.Settle());
  // Blocks that a port has posted ahead are counted, and are not one connection's.
  EXPECT_EQ(driver.pool().in_use(), static_cast<std::size_t>(driver.pool().posted()));
  for (const auto& end : driver.ends()) driver.Cancel(*end);
  ASSERT_TRUE(driver.Until([&] {
    return std::all_of(driver.ends().begin(), driver.ends().end(),
                       [](const auto& end) { return end->ended; });
  }));
  EXPECT_EQ(driver.pool().in_use(), static_cast<std::size_t>(driver.pool().posted()));
}

TEST_P(ConformanceTest, R03_BuffersAreThePoolsAndNoLarger) {
  for (const std::size_t block_size : {std::size_t{512}, std::size_t{5000}, std::size_t{1 << 20}}) {
    DriverOptions options;
    options.block_size = block_size;
    PortDriver driver(world(), options);
    ServerEnd& end = driver.Connect();
    end.keep_buffers = true;
    end.peer_writing = Pattern(200'000, 6);
    ASSERT_TRUE(driver.Until([&] { return end.received.size() >= end.peer_writing.size(); }));
    EXPECT_TRUE(IsSame(end.received, end.peer_writing));
    // The bytes are counted as in use: they are nowhere else.
    EXPECT_GE(driver.pool().in_use() * block_size, end.received.size());
  }
}

// R4 -------------------------------------------------------------------------------------------

TEST_P(ConformanceTest, R04_AGatheredSendArrivesContiguous) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  const std::string all = Pattern(400'000, 7);
  std::vector<Piece> pieces;
  for (std::size_t at = 0; at < all.size();) {
    // One byte, and many, and more than a send can gather in all.
    const std::size_t size = std::min(all.size() - at, 1 + (pieces.size() * 379) % 5000);
    pieces.push_back({all.data() + at, size});
    at += size;
  }
  ASSERT_GT(pieces.size(), 2 * kMaxPieces);
  for (std::size_t next = 0; next < pieces.size();) {
    const std::size_t count = std::min(kMaxPieces, pieces.size() - next);
    std::size_t taken = end.sent;
    driver.Send(end, &pieces[next], count);
    ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
    ASSERT_FALSE(end.send_error);
    taken = end.sent - taken;
    while (next < pieces.size() && taken >= pieces[next].size) taken -= pieces[next++].size;
    if (taken > 0) {
      pieces[next] = {static_cast<const char*>(pieces[next].data) + taken,
                      pieces[next].size - taken};
    }
  }
  ASSERT_TRUE(driver.Until([&] { return end.peer_received.size() >= all.size(); }));
  EXPECT_TRUE(IsSame(end.peer_received, all));
}

TEST_P(ConformanceTest, R04_ShortSendsGoOnUntilAllIsWritten) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer_reads = false;
  const std::string all = Pattern(kMoreThanFits, 8);
  driver.Write(end, all);
  EXPECT_TRUE(driver.Settle());
  EXPECT_FALSE(end.AllWritten()) << "the sockets took everything";
  EXPECT_GT(end.sent, 0U);
  end.peer_reads = true;
  ASSERT_TRUE(driver.Until([&] { return end.peer_received.size() >= all.size(); }));
  EXPECT_TRUE(driver.Until([&] { return end.AllWritten(); }));
  EXPECT_TRUE(IsSame(end.peer_received, all));
  EXPECT_EQ(end.sent, all.size());
}

TEST_P(ConformanceTest, R04_AGatheredSendThatHasToWaitIsSentAsItWas) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  const std::string all = Pattern(kMoreThanFits, 9);
  // Pieces of all sizes, so that a mix-up of any two shows.
  std::vector<Piece> pieces;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t size = std::min(all.size() - at, 1 + (pieces.size() * 7919) % 60'000);
    pieces.push_back({all.data() + at, size});
    at += size;
  }
  std::size_t waited = 0;
  for (std::size_t next = 0; next < pieces.size();) {
    end.peer_reads = false;
    const std::size_t before = end.sent;
    driver.Send(end, &pieces[next], std::min(kMaxPieces, pieces.size() - next));
    driver.Turn(driver.port().Now() + milliseconds(1));
    driver.Turn(driver.port().Now() + milliseconds(1));
    if (end.sending) {
      ++waited;
      end.peer_reads = true;
    }
    ASSERT_TRUE(driver.Until([&] { return !end.sending; }));
    ASSERT_FALSE(end.send_error);
    std::size_t taken = end.sent - before;
    while (next < pieces.size() && taken >= pieces[next].size) taken -= pieces[next++].size;
    if (taken > 0) {
      pieces[next] = {static_cast<const char*>(pieces[next].data) + taken,
                      pieces[next].size - taken};
    }
  }
  EXPECT_GT(waited, 0U) << "the sockets took everything";
  end.peer_reads = true;
  ASSERT_TRUE(driver.Until([&] { return end.peer_received.size() >= all.size(); }));
  EXPECT_TRUE(IsSame(end.peer_received, all));
}

TEST_P(ConformanceTest, R04_SendNowTakesWhatThereIsRoomForAndSendGoesOnBehindIt) {
  PortDriver driver(world());
  if (!driver.port().sends_now()) GTEST_SKIP() << "this port leaves all bytes to Send";
  ServerEnd& end = driver.Connect();
  end.peer_reads = false;
  const std::string all = Pattern(kMoreThanFits, 10);
  std::size_t at = 0;
  for (bool takes_all = true; takes_all && at < all.size();) {
    const std::size_t size = std::min<std::size_t>(all.size() - at, 70'000);
    const Piece pieces[] = {{all.data() + at, size / 3},
                            {all.data() + at + size / 3, size - size / 3}};
    const std::size_t taken = driver.port().SendNow(end, pieces, 2);
    ASSERT_LE(taken, size);
    takes_all = taken == size;
    at += taken;
  }
  EXPECT_GT(at, 0U);
  ASSERT_LT(at, all.size()) << "the sockets took everything";
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(end.sends, 0U) << "it has a completion";
  driver.Write(end, all.substr(at));
  end.peer_reads = true;
  ASSERT_TRUE(driver.Until([&] { return end.peer_received.size() >= all.size(); }));
  EXPECT_TRUE(driver.Until([&] { return end.AllWritten(); }));
  EXPECT_TRUE(IsSame(end.peer_received, all));
  // There is room again.
  const Piece piece{"again", 5};
  EXPECT_EQ(driver.port().SendNow(end, &piece, 1), 5U);
  EXPECT_TRUE(driver.Until([&] { return end.peer_received.size() == all.size() + 5; }));
}

TEST_P(ConformanceTest, R04_BothDirectionsAtOnce) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer_writing = Pattern(6'000'000, 11);
  const std::string all = Pattern(6'000'000, 12);
  driver.Write(end, all);
  ASSERT_TRUE(driver.Until([&] {
    return end.received.size() >= end.peer_writing.size() && end.peer_received.size() >= all.size();
  }));
  EXPECT_TRUE(IsSame(end.received, end.peer_writing));
  EXPECT_TRUE(IsSame(end.peer_received, all));
}

// Pause and Resume -----------------------------------------------------------------------------

TEST_P(ConformanceTest, PauseStopsAndResumeLosesNothing) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  end.peer_writing = "before ";
  ASSERT_TRUE(driver.Until([&] { return end.received == "before "; }));
  driver.port().Pause(end);
  driver.port().Pause(end);
  EXPECT_TRUE(driver.Settle());
  // "A few more completions may come, of what the system already had in hand": reads posted ahead.
  for (int i = 0; i < 16; ++i) {
    end.peer_writing += static_cast<char>('a' + i);
    driver.RunPeers();
    for (int turn = 0; turn < 3; ++turn) driver.Turn(driver.port().Now() + milliseconds(1));
  }
  EXPECT_TRUE(driver.Settle());
  const std::string received = end.received;
  end.peer_writing += " while paused";
  EXPECT_TRUE(driver.Settle());
  EXPECT_EQ(end.received, received) << "a paused socket went on receiving";
  driver.port().Resume(end);
  driver.port().Resume(end);
  ASSERT_TRUE(driver.Until([&] { return end.received.size() >= end.peer_writing.size(); }));
  EXPECT_EQ(end.received, end.peer_writing);
}

TEST_P(ConformanceTest, PauseAndResumeInQuickTurnsLoseNothing) {
  DriverOptions options;
  options.block_size = 4096;
  PortDriver driver(world(), options);
  for (int i = 0; i < 4; ++i) {
    driver.Connect().peer_writing = Pattern(2'000'000, static_cast<std::uint32_t>(20 + i));
  }
  std::uint32_t dice = 1;
  ASSERT_TRUE(driver.Until([&] {
    bool done = true;
    for (const auto& end : driver.ends()) {
      done = done && end->received.size() >= end->peer_writing.size();
      // Up to three changes between two Waits, and Resume more often than not.
      for (int i = 0; i < 3; ++i) {
        dice = dice * 1664525U + 1013904223U;
        const std::uint32_t face = dice >> 29U;
        if (face < 3) driver.port().Pause(*end);
        if (face >= 3 && face < 7) driver.port().Resume(*end);
      }
    }
    return done;
  }));
  for (const auto& end : driver.ends()) EXPECT_TRUE(IsSame(end->received, end->peer_writing));
}

TEST_P(ConformanceTest, PauseHoldsThePeerBackAndNoMemory) {
  PortDriver driver(world());
  ServerEnd& end = driver.Connect();
  driver.port().Pause(end);
  end.peer_writing = Pattern(2 * kMoreThanFits, 24);
  EXPECT_TRUE(driver.Settle());
  EXPECT_LT(end.peer_written, end.peer_writing.size()) << "the sockets took everything";
  EXPECT_EQ(driver.pool().in_use(), static_cast<std::size_t>(driver.pool().posted()));
  // The other direction is not paused.
  driver.Write(end, "are you still there?");
  ASSERT_TRUE(driver.Until([&] { return end.peer_received == "are you still there?"; }));
  driver.port().Resume(end);
  ASSERT_TRUE(driver.Until([&] { return end.received.size() >= end.peer_writing.size(); }));
  EXPECT_TRUE(IsSame(end.received, end.peer_writing));
}

}  // namespace
}  // namespace iocp::testing
