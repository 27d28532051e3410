// TLS that begins on a connection without it, over every port of this system.
#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "server/tls_fixture.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

class StartTlsTest : public TlsServerTest {
 protected:
  void SetUp() override { tls_ = Tls::Server(certificates.Server()); }
  // Reads so many bytes, which no TLS is in.
  static std::string ReadPlain(Peer& wire, std::size_t bytes) {
    std::string received;
    Eventually([&] {
      received += wire.Receive(bytes - received.size());
      return received.size() == bytes || wire.state() != Peer::State::kOpen;
    });
    return received;
  }

  Tls tls_;
};

TEST_P(StartTlsTest, WhatWasSentBeforeIsPlainAndWhatFollowsIsNot) {
  handler_.on_read = [&](Connection& connection, Buffer& bytes) {
    if (connection.tls()) {
      connection.Send(bytes.data(), bytes.size());
      return;
    }
    EXPECT_EQ(bytes.view(), "STARTTLS\n");
    connection.Send("go\n", 3);
    connection.StartTls(tls_);
    EXPECT_THROW(connection.StartTls(tls_), std::logic_error) << "it has TLS already";
    connection.Send("secret", 6);
  };
  Start(On());
  auto wire = DialPlain();
  wire->Send("STARTTLS\n");
  EXPECT_EQ(ReadPlain(*wire, 3), "go\n");
  TlsPeer client(std::move(wire), context.get());
  EXPECT_EQ(Talk(client, "hello", 11), "secrethello");
  client.EndStream();
  EXPECT_TRUE(AwaitEnd(client));
  EXPECT_TRUE(client.ended_in_order());
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().closed, CloseReason::kPeerClosed);
  EXPECT_EQ(Only().written, (std::vector<std::size_t>{3, 6, 5}));
}

// A send is with the system, and more waits, while TLS begins.
TEST_P(StartTlsTest, ABacklogGoesOutAsItIs) {
  const std::string before = Pattern(kMoreThanFits, 1);
  const std::string after = Pattern(1'000'000, 2);
  handler_.on_read = [&](Connection& connection, Buffer& bytes) {
    if (bytes.view() == "1") {
      connection.Send(before.data(), before.size());
      return;
    }
    if (connection.tls()) return;
    connection.StartTls(tls_);
    connection.Send(after.data(), after.size());
  };
  Options options = On();
  options.flow_control = false;
  options.send_backlog_limit = 2 * kMoreThanFits;
  Start(options);
  auto wire = DialPlain();
  wire->Send("1");
  std::string received = ReadPlain(*wire, 1000);
  wire->Send("2");
  received += ReadPlain(*wire, before.size() - 1000);
  EXPECT_TRUE(IsSame(received, before));
  TlsPeer client(std::move(wire), context.get());
  EXPECT_TRUE(IsSame(Talk(client, "", after.size()), after));
}

TEST_P(StartTlsTest, PlainBytesBehindItAreRefused) {
  std::vector<std::string> faults;
  handler_.on_message = [&](Connection& connection, Message& message) {
    if (message.view() != "STARTTLS") return;
    try {
      connection.StartTls(tls_);
    } catch (const std::runtime_error& error) {
      faults.emplace_back(error.what());
      throw;
    }
  };
  Options options = On();
  options.framing = Delimiter({"\n"});
  Start(options);
  for (const std::string& behind : {std::string("evil\n"), std::string("ev")}) {
    auto wire = DialPlain();
    wire->Send("STARTTLS\n" + behind);
    EXPECT_TRUE(Eventually([&] {
      wire->Receive(100);
      return wire->state() != Peer::State::kOpen;
    }));
  }
  ASSERT_TRUE(WaitForClosed(2));
  EXPECT_EQ(faults.size(), 2U);
  for (const std::string& fault : faults) {
    EXPECT_TRUE(fault.starts_with("the peer has sent something behind")) << fault;
  }
  for (const auto& [id, record] : handler_.records) {
    EXPECT_EQ(record.closed, CloseReason::kHookError);
    EXPECT_EQ(record.messages, std::vector<std::string>{"STARTTLS"}) << "nothing follows as TLS";
  }
}

// A callback runs between two messages of what has waited.
TEST_P(StartTlsTest, PlainBytesBehindACallbackAreRefused) {
  std::atomic<bool> paused{false};
  std::atomic<bool> refused{false};
  handler_.on_message = [&](Connection& connection, Message& message) {
    if (message.view() == "PAUSE") {
      connection.PauseReading();
      paused = true;
    }
    if (message.view() != "STARTTLS") return;
    connection.CallSoon([&] {
      EXPECT_THROW(server_.connections().front()->StartTls(tls_), std::runtime_error);
      refused = true;
    });
  };
  Options options = On();
  options.framing = Delimiter({"\n"});
  Start(options);
  auto wire = DialPlain();
  wire->Send("PAUSE\nSTARTTLS\nNOOP\nDELE");
  ASSERT_TRUE(Eventually([&] { return paused.load(); }));
  server_.connections().front()->ResumeReading();
  EXPECT_TRUE(Eventually([&] { return refused.load(); }));
}

TEST_P(StartTlsTest, AMessageThatIsTheLastMayBeginIt) {
  handler_.on_message = [&](Connection& connection, Message& message) {
    if (!connection.tls() && message.view() == "STARTTLS") connection.StartTls(tls_);
    connection.SendAsMessage(message.view());
  };
  Options options = On();
  options.framing = Delimiter({"\n"});
  Start(options);
  auto wire = DialPlain();
  wire->Send("noop\nSTARTTLS\n");
  EXPECT_EQ(ReadPlain(*wire, 5), "noop\n");
  TlsPeer client(std::move(wire), context.get());
  EXPECT_EQ(Talk(client, "more\n", 14), "STARTTLS\nmore\n");
}

TEST_P(StartTlsTest, AHandshakeThatFailsIsReported) {
  std::atomic<bool> begun{false};
  handler_.on_read = [&](Connection& connection, Buffer&) {
    connection.StartTls(tls_);
    begun = true;
  };
  Start(On());
  auto wire = DialPlain();
  wire->Send("STARTTLS");
  ASSERT_TRUE(Eventually([&] { return begun.load(); }));
  wire->Send("what is this, TLS?");
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().error.kind, ErrorKind::kTls);
  EXPECT_EQ(Only().closed, CloseReason::kError);
  EXPECT_EQ(Failures(TlsFailure::kProtocol), 1U);
}

TEST_P(StartTlsTest, AHandshakeThatTakesTooLongEndsTheConnection) {
  TlsServerOptions options = certificates.Server();
  options.handshake_timeout = 50ms;
  tls_ = Tls::Server(options);
  handler_.on_read = [&](Connection& connection, Buffer&) { connection.StartTls(tls_); };
  Start(On());
  auto wire = DialPlain();
  wire->Send("STARTTLS");
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().closed, CloseReason::kHandshakeTimeout);
  EXPECT_EQ(Failures(TlsFailure::kTimeout), 1U);
}

TEST_P(StartTlsTest, AServerThatStopsWaitsForNoHandshake) {
  std::atomic<bool> begun{false};
  handler_.on_read = [&](Connection& connection, Buffer&) {
    connection.Send("go\n", 3);
    connection.StartTls(tls_);
    begun = true;
  };
  Options options = On();
  options.close_timeout = std::chrono::hours(1);
  Start(options);
  auto wire = DialPlain();
  wire->Send("STARTTLS");
  EXPECT_EQ(ReadPlain(*wire, 3), "go\n");
  ASSERT_TRUE(Eventually([&] { return begun.load(); }));
  const auto before = std::chrono::steady_clock::now();
  server_.Shutdown(kDeadline);  // the client never ends its stream
  EXPECT_LT(std::chrono::steady_clock::now() - before, kDeadline / 2);
  EXPECT_EQ(Only().closed, CloseReason::kShutdown);
  EXPECT_EQ(Failures(TlsFailure::kClosed), 1U);
}

TEST_P(StartTlsTest, AClientNeedsANameToCheckTheCertificateWith) {
  TlsClientOptions nameless = certificates.Client();
  nameless.server_name = "";
  std::string refusal;
  handler_.on_read = [&](Connection& connection, Buffer&) {
    try {
      connection.StartTls(Tls::Client(nameless));
    } catch (const TlsError& error) {
      refusal = error.what();
    }
    EXPECT_FALSE(connection.tls());
    nameless.verify = false;
    connection.StartTls(Tls::Client(nameless));
    connection.Close();
  };
  Start(On());
  auto wire = DialPlain();
  wire->Send("STARTTLS");
  ASSERT_TRUE(WaitForClosed());
  EXPECT_TRUE(refusal.starts_with("server_name must be given")) << refusal;
}

TEST_P(StartTlsTest, ItBelongsInHooks) {
  Start(On());
  auto wire = DialPlain();
  ASSERT_TRUE(handler_.WaitFor([&] { return !handler_.records.empty(); }));
  const ConnectionPtr connection = server_.connections().front();
  EXPECT_THROW(connection->StartTls(tls_), std::logic_error);
  EXPECT_FALSE(connection->tls());
}

INSTANTIATE_TEST_SUITE_P(Ports, StartTlsTest, ::testing::ValuesIn(AvailableBackends()));

}  // namespace
}  // namespace iocp::testing
