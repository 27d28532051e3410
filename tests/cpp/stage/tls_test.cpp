// The stage of TLS, against another one and against a client of OpenSSL, in memory.
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stage/memory_wire.h"
#include "stage/tls_fixture.h"

namespace iocp::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The sizes of the records in `wire`, without their heads.
std::vector<std::size_t> RecordsIn(std::string_view wire) {
  std::vector<std::size_t> sizes;
  while (wire.size() >= 5) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(wire[i]); };
    sizes.push_back(static_cast<std::size_t>(byte(3)) << 8U | byte(4));
    wire.remove_prefix(5 + sizes.back());
  }
  EXPECT_TRUE(wire.empty());
  return sizes;
}

// The bytes that the stage has put down, even when it has failed.
std::string Wire(TlsEnd& end) {
  std::string wire;
  Piece pieces[kMaxPieces];
  const std::size_t count = end.stack().Gather(pieces);
  for (std::size_t i = 0; i < count; ++i) {
    wire.append(static_cast<const char*>(pieces[i].data), pieces[i].size);
  }
  return wire;
}

void Only(TlsServerOptions& options, TlsVersion version) {
  options.min_version = version;
  options.max_version = version;
}

TEST_F(TlsTest, DataArrivesWholeWhereverTheWireIsCut) {
  for (const TlsVersion version : {TlsVersion::kTls12, TlsVersion::kTls13}) {
    TlsServerOptions options = certificates.Server();
    Only(options, version);
    const Tls server_tls = Tls::Server(options);
    const Tls client_tls = Tls::Client(certificates.Client());
    for (const std::size_t step : {1U, 2U, 3U, 5U, 6U, 21U, 1000U, 16'384U, 20'000U, 100'000U}) {
      Connect(server_tls, client_tls, step);
      ASSERT_TRUE(server->ready() && client->ready()) << server->report().fault;
      const std::string there = Pattern(40'000, 1);
      const std::string back = Pattern(70'000, 2);
      client->Send(there);
      for (std::size_t at = 0; at < back.size(); at += 700) {
        server->Send(std::string_view(back).substr(at, 700));
      }
      Exchange(*client, *server, step);
      EXPECT_TRUE(IsSame(server->received, there)) << step;
      EXPECT_TRUE(IsSame(client->received, back)) << step;
      client->EndSend();
      Exchange(*client, *server, step);
      EXPECT_EQ(server->ends, 1);
      server->Send("more");  // one direction may end before the other
      server->EndSend();
      Exchange(*client, *server, step);
      EXPECT_EQ(client->ends, 1);
      EXPECT_TRUE(client->received.ends_with("more"));
      EXPECT_FALSE(server->error);
      EXPECT_FALSE(client->error);
    }
  }
}

// A record that comes in two parts is more than its second part; records behind it follow.
TEST_F(TlsTest, ARecordThatIsCutAnywhereIsFollowedByOthers) {
  Connect();
  std::string sent;
  for (std::uint32_t i = 0; i < 100; ++i) {
    const std::string data = Pattern(i * 331 % 16'384 + 1, i);
    const std::string more = Pattern(100, i + 1000);
    client->Send(data);
    client->Send(more);
    sent += data + more;
    const std::string wire = client->Take();
    const std::size_t at = wire.size() * i / 100;
    server->Receive(wire.substr(0, at));
    server->Receive(wire.substr(at));
    ASSERT_TRUE(IsSame(server->received, sent)) << i;
  }
}

TEST_F(TlsTest, TellsWhatTheHandshakeHasSettled) {
  TlsServerOptions options = certificates.Server();
  options.alpn = {"b", "a"};
  options.ca_file = certificates.ca_file();
  options.verify = TlsVerify::kOptional;
  TlsClientOptions other = certificates.ClientWith("client");
  other.alpn = {"a", "b"};
  Connect(Tls::Server(options), Tls::Client(other));
  for (const TlsEnd* const end : {server.get(), client.get()}) {
    const TlsInfo& info = end->report().info;
    EXPECT_TRUE(end->report().done);
    EXPECT_EQ(info.version, "TLSv1.3");
    EXPECT_EQ(info.cipher, "TLS_AES_256_GCM_SHA384");
    EXPECT_EQ(info.alpn, "b") << "the one that the server likes best";
    EXPECT_EQ(info.server_name, "localhost");
    EXPECT_FALSE(info.resumed);
    const auto* der = reinterpret_cast<const unsigned char*>(info.peer_certificate.data());
    X509* const certificate =
        d2i_X509(nullptr, &der, static_cast<long>(info.peer_certificate.size()));
    ASSERT_NE(certificate, nullptr);
    EXPECT_EQ(
        X509_check_host(certificate, end == client.get() ? "localhost" : "client", 0, 0, nullptr),
        1);
    X509_free(certificate);
  }
}

TEST_F(TlsTest, SmallSendsShareRecordsAndLargeOnesFillThem) {
  Connect();
  constexpr std::size_t kBytes = std::size_t{100} * 500;
  // Before anything is made of them, as in a turn.
  SendQueue user;
  for (int i = 0; i < 100; ++i) {
    const std::string data(500, 'x');
    const std::string_view piece = data;
    user.Push(SendItem::Copy(&piece, 1, nullptr));
  }
  std::string wire;
  std::size_t records = 0;
  while (!user.empty()) {
    ASSERT_FALSE(client->stack().Send(user, *client));
    Piece pieces[kMaxPieces];
    const std::size_t count = client->stack().Gather(pieces);
    std::size_t size = 0;
    wire.clear();
    for (std::size_t i = 0; i < count; ++i) {
      wire.append(static_cast<const char*>(pieces[i].data), pieces[i].size);
      size += pieces[i].size;
    }
    records += RecordsIn(wire).size();
    server->Receive(wire);
    SendQueue complete;
    user.Advance(client->stack().Sent(size, nullptr), complete);
  }
  EXPECT_EQ(server->received.size(), kBytes);
  EXPECT_LE(records, (kBytes + 16'383) / 16'384);
}

TEST_F(TlsTest, AStreamThatIsCutOffIsAnErrorBehindItsData) {
  for (const bool allowed : {false, true}) {
    TlsServerOptions options = certificates.Server();
    options.allow_truncation = allowed;
    Connect(Tls::Server(options), Tls::Client(certificates.Client()));
    client->Send("the last words");
    Exchange(*client, *server);
    server->EndReceive();
    EXPECT_EQ(server->received, "the last words");
    EXPECT_EQ(server->ends, allowed ? 1 : 0);
    EXPECT_EQ(server->error.kind, allowed ? ErrorKind::kNone : ErrorKind::kTruncated);
  }
}

// In the handshake nothing is an orderly end.
TEST_F(TlsTest, AHandshakeThatIsCutOffIsAnError) {
  TlsServerOptions options = certificates.Server();
  options.allow_truncation = true;
  const Tls tls = Tls::Server(options);
  TlsEnd silent(tls, 0);
  silent.EndReceive();
  EXPECT_EQ(silent.error.kind, ErrorKind::kTruncated);
  TlsEnd begun(tls, 0);
  TlsEnd other(Tls::Client(certificates.Client()), 0);
  begun.Receive(other.Take());
  begun.EndReceive();
  EXPECT_EQ(begun.error.kind, ErrorKind::kTruncated);
  EXPECT_EQ(begun.report().failure, TlsFailure::kPeerLeft);
  EXPECT_EQ(begun.ends, 0);
}

TEST_F(TlsTest, AHandshakeDoesNotGoOnBehindTheEnd) {
  server = std::make_unique<TlsEnd>(Tls::Server(certificates.Server()), 0);
  client = std::make_unique<TlsEnd>(Tls::Client(certificates.Client()), 0);
  server->Receive(client->Take());
  server->EndSend();
  Exchange(*client, *server);
  EXPECT_FALSE(server->error);
  EXPECT_FALSE(server->ready());
}

// OpenSSL answers what is no TLS at all with nothing, and a record of TLS that is wrong with an
// alert.
TEST_F(TlsTest, WhatIsNoTlsIsRefused) {
  const Tls tls = Tls::Server(certificates.Server());
  const auto alert = [](int description) {
    return std::string("\x15\x03\x03\0\2\2", 6) + static_cast<char>(description);
  };
  const std::string empty_hello = std::string("\x16\3\3\0\4\1\0\0\0", 9);
  const std::string data_first = std::string("\x17\3\3\0\1x", 6);
  const std::pair<std::string, std::string> cases[] = {
      {"GET / HTTP/1.0\r\n\r\n", ""},
      {std::string(100, '\0'), ""},
      {Pattern(1000, 3), ""},
      {empty_hello, alert(SSL_AD_DECODE_ERROR)},
      {data_first, alert(SSL_AD_UNEXPECTED_MESSAGE)}};
  for (const auto& [bytes, answer] : cases) {
    TlsEnd end(tls, 0);
    end.Receive(bytes);
    EXPECT_EQ(Wire(end), answer) << bytes;
    EXPECT_EQ(end.error.kind, ErrorKind::kTls);
    EXPECT_EQ(end.report().failure, TlsFailure::kProtocol);
    const char* const fault = answer.empty() ? "the peer has sent no TLS" : "TLS failed: ";
    EXPECT_TRUE(end.report().fault.starts_with(fault)) << end.report().fault;
    EXPECT_EQ(ERR_peek_error(), 0U) << "the queue of errors is not left clean";
  }
}

TEST_F(TlsTest, ABrokenRecordIsAnErrorBehindTheDataBeforeIt) {
  Connect();
  client->Send("good");
  std::string wire = client->Take();
  client->Send("bad");
  std::string broken = client->Take();
  broken.back() = static_cast<char>(broken.back() ^ 1);
  server->Receive(wire + broken);
  EXPECT_EQ(server->received, "good");
  EXPECT_EQ(server->error.kind, ErrorKind::kTls);
  EXPECT_NE(server->report().fault.find("bad record mac"), std::string::npos)
      << server->report().fault;
  client->Receive(server->Take());
  EXPECT_EQ(client->report().failure, TlsFailure::kRefused);
  EXPECT_EQ(client->report().fault, "the peer sent the alert 'bad record mac'");
}

TEST_F(TlsTest, AServerThatIsNotTrustedIsToldSo) {
  const Certificates strangers;
  Connect(Tls::Server(certificates.Server()), Tls::Client(strangers.Client()));
  EXPECT_EQ(client->error.kind, ErrorKind::kTls);
  EXPECT_EQ(client->report().failure, TlsFailure::kCertificate);
  EXPECT_EQ(server->report().failure, TlsFailure::kRefused);
  EXPECT_EQ(server->report().fault, "the peer sent the alert 'unknown CA'");
  EXPECT_FALSE(server->ready());
}

TEST_F(TlsTest, TheNameOfTheServerIsChecked) {
  const auto fault = [&](const std::string& name) {
    TlsClientOptions options = certificates.Client();
    options.server_name = name;
    Connect(Tls::Server(certificates.Server()), Tls::Client(options));
    return client->report().fault;
  };
  EXPECT_EQ(fault("localhost"), "");
  EXPECT_EQ(fault("127.0.0.1"), "");
  EXPECT_EQ(fault("example.org"), "the peer's certificate is refused: hostname mismatch");
  EXPECT_EQ(fault("127.0.0.2"), "the peer's certificate is refused: IP address mismatch");
  EXPECT_EQ(fault(""), "server_name must be given: there is no name to check the certificate with");
  TlsClientOptions trusting = certificates.Client();
  trusting.server_name = "example.org";
  trusting.verify = false;
  Connect(Tls::Server(certificates.Server()), Tls::Client(trusting));
  EXPECT_TRUE(client->ready() && server->ready());
  EXPECT_EQ(fault("LocalHost."), "") << "a dot at the end and capitals do not count";
  EXPECT_EQ(server->report().info.server_name, "localhost");
  EXPECT_EQ(client->report().info.server_name, "localhost");
}

// The subject says who somebody is, and not for which host.
TEST_F(TlsTest, ASubjectIsNoHostName) {
  CertificateOptions subject_only;
  subject_only.for_its_name = false;
  subject_only.address = "127.0.0.1";
  certificates.Issue("subject", subject_only);
  const auto fault = [&](const std::string& name) {
    TlsClientOptions options = certificates.Client();
    options.server_name = name;
    Connect(Tls::Server(certificates.Server("subject")), Tls::Client(options));
    return client->report().fault;
  };
  EXPECT_EQ(fault("localhost"), "the peer's certificate is refused: hostname mismatch");
  EXPECT_EQ(fault("127.0.0.1"), "");
  EXPECT_EQ(server->report().info.server_name, "");
}

// Sessions that wait for their next connection must not keep a Tls that was replaced.
TEST_F(TlsTest, AStageThatIsClosedLetsGoOfItsTls) {
  Connect();
  std::weak_ptr<TlsDescription> known;
  std::unique_ptr<TlsEnd> end;
  {
    const Tls tls = Tls::Server(certificates.Server());
    known = tls.description();
    end = std::make_unique<TlsEnd>(tls, 0);
  }
  end->Receive(client->Take());
  EXPECT_FALSE(known.expired());
  end->stack().Close();
  EXPECT_TRUE(known.expired());
}

TEST_F(TlsTest, ACertificateThatHasExpiredIsRefused) {
  CertificateOptions old;
  old.valid_from = -7200;
  old.valid_for = 3600;
  certificates.Issue("old", old);
  Connect(Tls::Server(certificates.Server("old")), Tls::Client(certificates.Client()));
  EXPECT_EQ(client->report().fault, "the peer's certificate is refused: certificate has expired");
}

TEST_F(TlsTest, ClientsShowCertificatesWhereTheyAreAskedFor) {
  const Certificates strangers;
  const auto failure = [&](TlsVerify verify, TlsVersion version, TlsClientOptions client_options) {
    TlsServerOptions options = certificates.Server();
    if (verify != TlsVerify::kNone) options.ca_file = certificates.ca_file();
    options.verify = verify;
    Only(options, version);
    client_options.ca_file = certificates.ca_file();
    Connect(Tls::Server(options), Tls::Client(client_options));
    if (server->ready()) return std::string("none");
    return server->report().failure == TlsFailure::kCertificate ? server->report().fault : "other";
  };
  for (const TlsVersion version : {TlsVersion::kTls12, TlsVersion::kTls13}) {
    EXPECT_EQ(failure(TlsVerify::kRequired, version, certificates.ClientWith("client")), "none");
    EXPECT_FALSE(server->report().info.peer_certificate.empty());
    EXPECT_EQ(failure(TlsVerify::kRequired, version, certificates.Client()),
              "the peer has shown no certificate");
    EXPECT_EQ(failure(TlsVerify::kOptional, version, certificates.Client()), "none");
    EXPECT_EQ(failure(TlsVerify::kOptional, version, strangers.ClientWith("client")),
              "the peer's certificate is refused: unable to get local issuer certificate");
    EXPECT_EQ(failure(TlsVerify::kNone, version, certificates.ClientWith("client")), "none");
    EXPECT_TRUE(server->report().info.peer_certificate.empty());
  }
}

TEST_F(TlsTest, AProtocolThatTheServerDoesNotHaveIsRefused) {
  TlsServerOptions options = certificates.Server();
  options.alpn = {"a"};
  const Tls tls = Tls::Server(options);
  TlsClientOptions other = certificates.Client();
  Connect(tls, Tls::Client(other));
  EXPECT_TRUE(server->ready()) << "who offers none gets none";
  EXPECT_EQ(server->report().info.alpn, "");
  other.alpn = {"b"};
  Connect(tls, Tls::Client(other));
  EXPECT_EQ(client->report().fault, "the peer sent the alert 'no application protocol'");
}

TEST_F(TlsTest, TheHostNameChoosesTheCertificate) {
  CertificateOptions named;
  named.name = "example.org";
  certificates.Issue("example.org", named);
  named.name = "*.example.org";
  certificates.Issue("any.example.org", named);
  TlsServerOptions options = certificates.Server();
  TlsServerOptions strict = certificates.Server("any.example.org");
  strict.max_version = TlsVersion::kTls12;
  strict.verify = TlsVerify::kRequired;
  strict.ca_file = certificates.ca_file();
  strict.alpn = {"strict"};
  options.sni["Example.org"] = Tls::Server(certificates.Server("example.org"));
  options.sni["*.Example.org."] = Tls::Server(strict);
  const Tls tls = Tls::Server(options);
  const auto connect = [&](const std::string& name, const std::string& certificate) {
    TlsClientOptions other =
        certificate.empty() ? certificates.Client() : certificates.ClientWith(certificate);
    other.server_name = name;
    other.alpn = {"strict"};
    Connect(tls, Tls::Client(other));
    return client->report().fault.empty() && server->report().fault.empty();
  };
  EXPECT_TRUE(connect("localhost", "")) << client->report().fault;
  EXPECT_TRUE(connect("EXAMPLE.org.", "")) << client->report().fault;
  EXPECT_EQ(server->report().info.version, "TLSv1.3");
  EXPECT_EQ(server->report().info.alpn, "");
  EXPECT_FALSE(connect("www.example.org", ""));
  EXPECT_EQ(server->report().failure, TlsFailure::kCertificate);
  EXPECT_TRUE(connect("www.example.org", "client")) << client->report().fault;
  EXPECT_EQ(server->report().info.version, "TLSv1.2");
  EXPECT_EQ(server->report().info.alpn, "strict");
  EXPECT_EQ(server->report().info.server_name, "www.example.org");
  EXPECT_FALSE(connect("a.b.example.org", "client")) << "one more label, not two";
}

// ---- Floods and what a server does not do.

TEST_F(TlsTest, KeyUpdatesAreBoundedPerSecond) {
  const ClientContext context = NewClientContext(certificates.ca_file());
  const Tls tls = Tls::Server(certificates.Server());
  const auto update = [](MixedPair& pair, int count) {
    for (int i = 0; i < count; ++i) {
      SSL_key_update(pair.client->ssl(), SSL_KEY_UPDATE_REQUESTED);
      SSL_do_handshake(pair.client->ssl());
      pair.Run();
    }
  };
  MixedPair pair(tls, context.get());
  pair.Run();
  ASSERT_TRUE(pair.server.ready());
  update(pair, 50);
  EXPECT_FALSE(pair.server.error);
  pair.client->Send("x");
  pair.Run();
  pair.server.Send("y");
  pair.Run();
  EXPECT_EQ(pair.Received(), "y") << "keys were changed in both directions";
  update(pair, 50);
  EXPECT_FALSE(pair.server.error) << pair.server.report().fault;
  update(pair, 1);
  EXPECT_EQ(pair.server.error.kind, ErrorKind::kTls);
  EXPECT_EQ(pair.server.report().fault, "the peer sends too many records that are not data");

  MixedPair slow(tls, context.get());
  slow.Run();
  for (int i = 0; i < 300; ++i) {
    slow.server.now += milliseconds(11);
    update(slow, 1);
  }
  EXPECT_FALSE(slow.server.error) << slow.server.report().fault << ": a client may send no data";
  MixedPair fast(tls, context.get());
  fast.Run();
  for (int i = 0; i < 101; ++i) {
    EXPECT_FALSE(fast.server.error);
    fast.server.now += milliseconds(9);
    update(fast, 1);
  }
  EXPECT_EQ(fast.server.error.kind, ErrorKind::kTls);
}

// All of them in one receive: what stands behind the bound is not looked at.
TEST_F(TlsTest, AFloodInOneReceiveEndsAtTheBound) {
  const ClientContext context = NewClientContext(certificates.ca_file());
  MixedPair pair(Tls::Server(certificates.Server()), context.get());
  pair.Run();
  for (int i = 0; i < 1000; ++i) {
    SSL_key_update(pair.client->ssl(), SSL_KEY_UPDATE_REQUESTED);
    SSL_do_handshake(pair.client->ssl());
    pair.client->Send("");
  }
  pair.Run();
  EXPECT_EQ(pair.server.error.kind, ErrorKind::kTls);
  EXPECT_LE(pair.server.stack().bytes_sent(), 8000U) << "answers to those behind the bound";
}

TEST_F(TlsTest, RenegotiationIsRefused) {
  const ClientContext context = NewClientContext(certificates.ca_file());
  TlsServerOptions options = certificates.Server();
  Only(options, TlsVersion::kTls12);
  MixedPair pair(Tls::Server(options), context.get());
  pair.Run();
  ASSERT_TRUE(pair.server.ready());
  SSL_renegotiate(pair.client->ssl());
  SSL_do_handshake(pair.client->ssl());
  ERR_clear_error();
  pair.Run();
  EXPECT_EQ(pair.client->failure(), SSL_R_NO_RENEGOTIATION);
  EXPECT_EQ(pair.server.received, "");
}

TEST_F(TlsTest, EarlyDataIsNotOffered) {
  const ClientContext context = NewClientContext(certificates.ca_file());
  MixedPair pair(Tls::Server(certificates.Server()), context.get());
  pair.Run();
  ASSERT_NE(pair.client->session(), nullptr);
  EXPECT_EQ(SSL_SESSION_get_max_early_data(pair.client->session()), 0U);
}

TEST_F(TlsTest, AHandshakeHasABound) {
  // A client's first message that goes on and on.
  std::string record("\x16\x03\x01\x10\x00", 5);
  std::string first = record + std::string("\x01\x01\xff\xff", 4) + std::string(4092, 'x');
  for (const TlsVerify verify : {TlsVerify::kNone, TlsVerify::kOptional}) {
    TlsServerOptions options = certificates.Server();
    options.verify = verify;
    if (verify != TlsVerify::kNone) options.ca_file = certificates.ca_file();
    TlsEnd end(Tls::Server(options), 0);
    end.Receive(first);
    int records = 1;
    for (; records < 100 && !end.error; ++records) end.Receive(record + std::string(4096, 'x'));
    EXPECT_EQ(end.error.kind, ErrorKind::kTls);
    EXPECT_EQ(end.report().fault, "the peer's handshake is too long");
    EXPECT_EQ(records, verify == TlsVerify::kNone ? 8 : 32);
  }
}

// 64 KiB of certificates are enough for everybody.
TEST_F(TlsTest, AChainOfCertificatesHasABound) {
  TlsServerOptions options = certificates.Server();
  options.verify = TlsVerify::kRequired;
  options.ca_file = certificates.ca_file();
  const Tls tls = Tls::Server(options);
  const Identity identity = certificates.authority().Issue();
  for (const bool long_chain : {false, true}) {
    std::string chain = identity.certificate;
    // About 70 % of these bytes go over the wire: 42 KB and 84 KB.
    while (chain.size() < (long_chain ? 120'000U : 60'000U)) {
      chain += certificates.authority().certificate();
    }
    TlsClientOptions other = certificates.Client();
    other.certificate_file = certificates.folder().Write("chain.pem", chain);
    other.key_file = certificates.folder().Write("chain.key", identity.key);
    Connect(tls, Tls::Client(other));
    EXPECT_EQ(server->ready(), !long_chain) << server->report().fault;
    if (long_chain) {
      EXPECT_EQ(server->report().fault, "TLS failed: excessive message size");
    }
  }
}

TEST_F(TlsTest, OldVersionsAreRefused) {
  const ClientContext context = NewClientContext("");
  SSL_CTX_set_security_level(context.get(), 0);
  SSL_CTX_set_max_proto_version(context.get(), TLS1_1_VERSION);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_VERSION);
  MixedPair pair(Tls::Server(certificates.Server()), context.get());
  pair.Run();
  EXPECT_EQ(pair.client->failure(), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
  EXPECT_EQ(pair.server.report().failure, TlsFailure::kProtocol);
}

}  // namespace
}  // namespace iocp::testing
