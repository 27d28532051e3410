// Servers with TLS, over every port of this system, with clients of OpenSSL.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/tls_fixture.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

TEST_P(TlsServerTest, ManyClientsEchoAndEndInOrder) {
  constexpr std::size_t kClients = 24;
  StartEcho(OnTls(4));
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kClients; ++i) {
    threads.emplace_back([this, i] {
      const std::string data = Pattern(7'000 * (i + 1), static_cast<unsigned>(i));
      const ClientContext own = NewClientContext(certificates.ca_file());
      TlsPeer client(DialPlain(), own.get());
      EXPECT_TRUE(IsSame(Talk(client, data, data.size()), data));
      client.EndStream();
      EXPECT_TRUE(AwaitEnd(client));
      EXPECT_TRUE(client.ended_in_order());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(WaitForClosed(kClients));
  for (const auto& [id, record] : handler_.records) {
    EXPECT_EQ(record.closed, CloseReason::kPeerClosed);
  }
  EXPECT_EQ(server_.stats().tls_handshakes, kClients);
}

TEST_P(TlsServerTest, EstablishedWaitsForTheHandshake) {
  std::optional<TlsInfo> in_hook;
  handler_.on_established = [&](Connection& connection) {
    in_hook = connection.tls();
    connection.Send("welcome", 7);
  };
  Start(OnTls());
  auto client = Dial();
  EXPECT_TRUE(Shake(*client));
  EXPECT_EQ(Talk(*client, "", 7), "welcome");
  const std::vector<ConnectionPtr> connections = server_.connections();
  ASSERT_EQ(connections.size(), 1U);
  EXPECT_EQ(connections.front()->tls()->version, "TLSv1.3") << "on any thread";
  client->EndStream();
  EXPECT_TRUE(WaitForClosed());
  EXPECT_EQ(connections.front()->tls()->version, "TLSv1.3") << "also when it has ended";
  ASSERT_TRUE(in_hook);
  EXPECT_EQ(in_hook->version, "TLSv1.3");
  EXPECT_EQ(in_hook->server_name, "localhost");
}

TEST_P(TlsServerTest, ASilentClientIsClosedAndNoHookKnowsIt) {
  TlsServerOptions tls = certificates.Server();
  tls.handshake_timeout = 100ms;
  Options options = OnTls(tls);
  options.first_data_timeout.reset();
  Start(options);
  const Client silent(server_.address());
  const Client slow(server_.address());
  slow.Send("\x16\x03\x01");
  static_cast<void>(silent.WaitForEnd());
  static_cast<void>(slow.WaitForEnd());
  ExpectOnly(TlsFailure::kTimeout, 2);
}

// A client that sends a byte now and then is late as well.
TEST_P(TlsServerTest, AClientThatDribblesIsClosed) {
  TlsServerOptions tls = certificates.Server();
  tls.handshake_timeout = 100ms;
  Start(OnTls(tls));
  const Client client(server_.address());
  client.Send(std::string("\x16\x03\x01\x10\x00\x01\x00\x0f\xfc", 9));
  EXPECT_TRUE(Eventually([&] {
    std::this_thread::sleep_for(1ms);  // or it would be too long, and not too late
    return !client.Send("\x03");
  }));
  ExpectOnly(TlsFailure::kTimeout, 1);
}

TEST_P(TlsServerTest, FailuresAreCountedByTheirCauseAndToldToTheClient) {
  TlsServerOptions tls = certificates.Server();
  tls.verify = TlsVerify::kRequired;
  tls.ca_file = certificates.ca_file();
  const Certificates strangers;
  const auto fails = [&](TlsFailure failure, auto act) {
    Start(OnTls(tls));
    act();
    ExpectOnly(failure, 1);
    server_.Shutdown();
  };
  fails(TlsFailure::kProtocol, [&] {
    const Client plain(server_.address());
    plain.Send("GET / HTTP/1.0\r\n\r\n");
    static_cast<void>(plain.WaitForEnd());
  });
  fails(TlsFailure::kPeerLeft, [&] { const Client gone(server_.address()); });
  fails(TlsFailure::kPeerLeft, [&] {
    Client gone(server_.address());
    gone.Send("\x16\x03\x01");
    EXPECT_TRUE(Eventually([&] { return server_.connection_count() == 1; }));
    gone.Reset();
  });
  fails(TlsFailure::kRefused, [&] {
    const ClientContext other = NewClientContext(strangers.ca_file());
    TlsPeer client(DialPlain(), other.get());
    EXPECT_FALSE(Shake(client));
    EXPECT_EQ(client.failure(), SSL_R_CERTIFICATE_VERIFY_FAILED);
    EXPECT_TRUE(AwaitEnd(client));
  });
  fails(TlsFailure::kCertificate, [&] {
    auto client = Dial();
    EXPECT_TRUE(AwaitEnd(*client));
    EXPECT_EQ(client->failure(), SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED);
  });
}

TEST_P(TlsServerTest, FailuresAreReportedToWhoWantsToHear) {
  handler_.hooks |= kHookHandshakeFailed;
  Start(OnTls());
  const auto reported = [&](std::size_t count) {
    return handler_.WaitFor([&] { return handler_.failed_handshakes.size() == count; });
  };
  const Client plain(server_.address());
  plain.Send("what is this, TLS?\r\n");
  ASSERT_TRUE(reported(1));
  {
    const Client gone(server_.address());
  }
  ASSERT_TRUE(reported(2));
  const ClientContext distrusting = NewClientContext(certificates.ca_file());
  SSL_CTX_set_cert_store(distrusting.get(), X509_STORE_new());
  TlsPeer client(DialPlain(), distrusting.get());
  EXPECT_FALSE(Shake(client));
  EXPECT_TRUE(AwaitEnd(client));
  ASSERT_TRUE(reported(3));
  auto good = Dial();
  EXPECT_TRUE(Shake(*good));
  good->EndStream();
  EXPECT_TRUE(WaitForClosed());
  server_.Shutdown();
  TlsServerOptions hasty = certificates.Server();
  hasty.handshake_timeout = 100ms;
  Start(OnTls(hasty));
  const Client silent(server_.address());
  ASSERT_TRUE(reported(4));
  const std::vector<std::pair<TlsFailure, std::string>> expected = {
      {TlsFailure::kProtocol, "the peer has sent no TLS"},
      {TlsFailure::kPeerLeft, "the peer ended the connection in the handshake"},
      {TlsFailure::kRefused, "the peer sent the alert 'unknown CA'"},
      {TlsFailure::kTimeout, "it was not done in time"}};
  EXPECT_EQ(handler_.failed_handshakes, expected);
}

TEST_P(TlsServerTest, AStreamThatIsCutOffIsAnErrorBehindItsData) {
  std::string fault;
  handler_.on_closing = [&](Connection& connection, CloseReason) {
    fault = connection.tls_fault();
  };
  Start(OnTls());
  auto client = Dial();
  Talk(*client, "the last words", 0);
  client->Truncate();
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().received, "the last words");
  EXPECT_EQ(Only().error.kind, ErrorKind::kTruncated);
  EXPECT_EQ(Only().closed, CloseReason::kError);
  EXPECT_FALSE(Only().ended);
  EXPECT_NE(fault.find("cut off"), std::string::npos);
}

TEST_P(TlsServerTest, CloseSendsAllAndThenTheEnd) {
  const std::string answer = Pattern(3'000'000, 1);
  handler_.on_read = [&](Connection& connection, Buffer&) {
    EXPECT_EQ(connection.Send(answer.data(), answer.size()), SendResult::kAccepted);
    connection.Close();
  };
  Options options = OnTls();
  options.close_timeout = kDeadline;
  Start(options);
  auto client = Dial();
  const std::string received = Talk(*client, "question", answer.size());
  EXPECT_TRUE(IsSame(received, answer));
  EXPECT_TRUE(AwaitEnd(*client));
  EXPECT_TRUE(client->ended_in_order());
  client->Close();
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().closed, CloseReason::kLocalClose);
  EXPECT_EQ(Only().written, std::vector<std::size_t>{answer.size()});
}

// As without TLS: the server listens to nobody then, and the client still reads.
TEST_P(TlsServerTest, BehindCloseAStreamThatIsCutOffEndsNoAnswer) {
  const std::string answer = Pattern(kMoreThanFits, 3);
  handler_.on_read = [&](Connection& connection, Buffer&) {
    connection.Send(answer.data(), answer.size());
    connection.Close();
  };
  Options options = OnTls();
  options.close_timeout = kDeadline;
  options.send_backlog_limit = 2 * kMoreThanFits;
  Start(options);
  auto client = Dial();
  std::string received = Talk(*client, "question", 1000);
  ASSERT_GE(received.size(), 1000U);
  client->Truncate();
  EXPECT_TRUE(Run(*client, [&] {
    received += client->Receive(100'000);
    return client->state() != Peer::State::kOpen;
  }));
  EXPECT_TRUE(IsSame(received, answer));
  EXPECT_TRUE(client->ended_in_order());
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().closed, CloseReason::kLocalClose);
  EXPECT_EQ(Only().written, std::vector<std::size_t>{answer.size()});
}

TEST_P(TlsServerTest, ASlowReaderGetsAllAndKeepsTheServerFromReading) {
  const std::string data = Pattern(16'000'000, 2);
  StartEcho(OnTls());
  auto client = Dial();
  ASSERT_TRUE(Shake(*client));
  std::size_t sent = 0;
  // Nothing is read until nothing more is taken.
  ASSERT_TRUE(Eventually([&] {
    const std::size_t taken = client->Send(std::string_view(data).substr(sent, 60'000));
    sent += taken;
    return taken == 0 && server_.stats().send_backlog > Options().write_low_water;
  }));
  EXPECT_LE(server_.stats().send_backlog, 2U * 1024 * 1024);
  const std::string received = Talk(*client, std::string_view(data).substr(sent), data.size());
  EXPECT_TRUE(IsSame(received, data));
  client->EndStream();
  EXPECT_TRUE(AwaitEnd(*client));
  EXPECT_TRUE(client->ended_in_order());
}

TEST_P(TlsServerTest, AServerStopsInHandshakes) {
  Options options = OnTls();
  options.close_timeout = std::chrono::hours(1);
  Start(options);
  const Client silent(server_.address());
  const Client begun(server_.address());
  begun.Send("\x16\x03\x01\x02");
  ASSERT_TRUE(Eventually([&] { return server_.connection_count() == 2; }));
  const auto before = std::chrono::steady_clock::now();
  server_.Shutdown(kDeadline);  // the clients never end their streams
  EXPECT_LT(std::chrono::steady_clock::now() - before, kDeadline / 2);
  EXPECT_EQ(Failures(TlsFailure::kClosed), 2U);
  EXPECT_TRUE(handler_.records.empty());
}

// More clients than have a turn at a time; those who are connected are served all the while.
TEST_P(TlsServerTest, AStormOfHandshakesIsServed) {
  constexpr std::size_t kClients = 100;
  TlsServerOptions tls = certificates.Server();
  tls.handshake_timeout = std::chrono::hours(1);  // clients wait here for their turn
  StartEcho(OnTls(tls));
  auto connected = Dial();
  ASSERT_EQ(Talk(*connected, "first", 5), "first");
  std::vector<std::unique_ptr<TlsPeer>> clients;
  for (std::size_t i = 0; i < kClients; ++i) clients.push_back(Dial());
  EXPECT_EQ(Talk(*connected, "second", 6), "second");
  for (auto& client : clients) EXPECT_EQ(Talk(*client, "x", 1), "x");
  EXPECT_EQ(server_.stats().tls_handshakes, kClients + 1);
}

TEST_P(TlsServerTest, SessionsAreResumedOnWhicheverWorker) {
  StartEcho(OnTls(4));
  auto first = Dial();
  ASSERT_EQ(Talk(*first, "x", 1), "x");
  constexpr std::uint64_t kClients = 12;
  std::vector<std::unique_ptr<TlsPeer>> clients;
  for (std::uint64_t i = 0; i < kClients; ++i) {
    const SessionPtr session(SSL_SESSION_dup(first->session()));
    clients.push_back(Dial(session.get()));
    EXPECT_EQ(Talk(*clients.back(), "x", 1), "x");
    EXPECT_EQ(SSL_session_reused(clients.back()->ssl()), 1);
  }
  EXPECT_EQ(server_.stats().tls_resumed, kClients);
  EXPECT_EQ(server_.stats().tls_handshakes, kClients + 1);
}

TEST_P(TlsServerTest, NewcomersGetTheTlsThatWasSetLast) {
  const auto name_of = [](TlsPeer& client) {
    X509* const certificate = SSL_get0_peer_certificate(client.ssl());
    char name[100] = "";
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name,
                              sizeof(name));
    return std::string(name);
  };
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  CertificateOptions renewed;
  renewed.name = "renewed";
  certificates.Issue("renewed", renewed);
  const Tls second = Tls::Server(certificates.Server("renewed"));
  EXPECT_FALSE(server_.SetTls(second)) << "it does not run";
  StartEcho(OnTls(2));
  auto before = Dial();
  EXPECT_EQ(Talk(*before, "x", 1), "x");
  EXPECT_THROW(server_.SetTls({}), TlsError);
  EXPECT_THROW(server_.SetTls(Tls::Client(certificates.Client())), TlsError);
  auto still = Dial();
  EXPECT_TRUE(Shake(*still));
  EXPECT_EQ(name_of(*still), "localhost");
  EXPECT_TRUE(server_.SetTls(second));
  for (int i = 0; i < 4; ++i) {
    auto after = Dial();
    EXPECT_TRUE(Shake(*after));
    EXPECT_EQ(name_of(*after), "renewed");
  }
  EXPECT_EQ(Talk(*before, "y", 1), "y");
}

TEST_P(TlsServerTest, AServerNeedsATlsOfAServer) {
  Options options = On();
  options.tls = Tls::Client(certificates.Client());
  EXPECT_EQ(server_.Start(options).message, "tls must be made by Tls::Server, not by Tls::Client");
}

TEST_P(TlsServerTest, EstablishedOnFirstDataWaitsForTheFirstDataInTls) {
  Options options = OnTls();
  options.established_on = EstablishedOn::kFirstData;
  options.first_data_timeout = 100ms;
  Start(options);
  auto silent = Dial();
  EXPECT_TRUE(Shake(*silent));
  EXPECT_TRUE(AwaitEnd(*silent));
  EXPECT_TRUE(handler_.records.empty());
  EXPECT_EQ(server_.stats().tls_handshakes, 1U);
  auto speaks = Dial();
  Talk(*speaks, "x", 0);
  EXPECT_TRUE(handler_.WaitFor([&] { return !handler_.records.empty(); }));
}

INSTANTIATE_TEST_SUITE_P(Ports, TlsServerTest, ::testing::ValuesIn(AvailableBackends()));

}  // namespace
}  // namespace iocp::testing
