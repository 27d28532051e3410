// A Tls: the options that it refuses, and how it says so; tickets, which outlive a connection.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "stage/memory_wire.h"
#include "stage/tls/ticket_keys.h"
#include "stage/tls_fixture.h"

namespace iocp::testing {
namespace {

using std::chrono::hours;
using std::chrono::minutes;

class TlsOptionsTest : public TlsTest {
 protected:
  // The sentence of the error when the options of a good server are changed so; "": there is none.
  std::string Refusal(const std::function<void(TlsServerOptions&)>& change,
                      std::string* file = nullptr, int* code = nullptr) {
    TlsServerOptions options = certificates.Server();
    change(options);
    try {
      static_cast<void>(Tls::Server(options));
    } catch (const TlsError& error) {
      if (file != nullptr) *file = error.file();
      if (code != nullptr) *code = error.code();
      return error.what();
    }
    return "";
  }
  std::string File(const std::string& name, std::string_view text) {
    return certificates.folder().Write(name, text);
  }
};

TEST_F(TlsOptionsTest, AFileThatIsWrongIsNamed) {
  std::string file;
  int code = 0;
  const std::string missing = certificates.folder().Path("missing.pem");
  EXPECT_EQ(Refusal([&](auto& options) { options.certificate_file = missing; }, &file, &code),
            "certificate_file '" + missing + "' cannot be read: No such file or directory");
  EXPECT_EQ(file, missing);
  EXPECT_EQ(code, ENOENT);
  const std::string empty = File("empty.pem", "");
  EXPECT_EQ(Refusal([&](auto& options) { options.certificate_file = empty; }, &file, &code),
            "certificate_file '" + empty + "' holds no certificate in PEM format");
  EXPECT_EQ(code, 0);
  EXPECT_EQ(Refusal([&](auto& options) { options.key_file = empty; }),
            "key_file '" + empty + "' holds no private key in PEM format that can be read");
  const std::string broken =
      File("broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
  EXPECT_TRUE(Refusal([&](auto& options) {
                options.ca_file = broken;
              }).starts_with("ca_file '" + broken + "' holds a certificate that cannot be read"));
  const std::string other = certificates.folder().Path("client.key");
  EXPECT_TRUE(Refusal([&](auto& options) {
                options.key_file = other;
              }).starts_with("the key in '" + other + "' is not that of the certificate in '"));
}

TEST_F(TlsOptionsTest, AKeyInThePlaceOfAFileIsNotRepeated) {
  const Identity identity = certificates.authority().Issue();
  std::string file;
  const std::string refusal =
      Refusal([&](auto& options) { options.key_file = identity.key; }, &file);
  EXPECT_TRUE(refusal.starts_with("key_file is the name of a file, and was given the text of one"))
      << refusal;
  EXPECT_EQ(refusal.find("BEGIN"), std::string::npos);
  EXPECT_EQ(file, "");
}

TEST_F(TlsOptionsTest, ACertificateThatIsNotValidNowIsWarnedOf) {
  constexpr long kHour = 3600;
  const auto warning = [&](long from, long seconds) {
    CertificateOptions options;
    options.valid_from = from;
    options.valid_for = seconds;
    certificates.Issue("dated", options);
    return Tls::Server(certificates.Server("dated")).certificate_warning();
  };
  EXPECT_EQ(warning(-2 * kHour, 4 * kHour), "");
  EXPECT_NE(warning(-2 * kHour, kHour).find("has expired: it was valid until "), std::string::npos);
  const std::string early = warning(kHour, kHour);
  EXPECT_NE(early.find("is not valid before "), std::string::npos);
  EXPECT_NE(early.find(certificates.Server("dated").certificate_file), std::string::npos);
  EXPECT_EQ(Tls().certificate_warning(), "");
  EXPECT_EQ(Tls::Client(certificates.Client()).certificate_warning(), "");
}

TEST_F(TlsOptionsTest, AFileInDerIsToldFromOthers) {
  const std::string der = File("server.der", std::string("\x30\x82\x01\x00", 4));
  EXPECT_TRUE(Refusal([&](auto& options) {
                options.certificate_file = der;
              }).ends_with("in DER: convert it with openssl x509 -inform DER"));
  EXPECT_TRUE(Refusal([&](auto& options) {
                options.key_file = der;
              }).ends_with("in DER: convert it with openssl pkey -inform DER"));
}

TEST_F(TlsOptionsTest, AnEncryptedKeyNeedsItsPassword) {
  CertificateOptions secret;
  secret.password = "open sesame";
  certificates.Issue("secret", secret);
  const TlsServerOptions good = certificates.Server("secret");
  const auto refusal = [&](const std::string& password) {
    return Refusal([&](auto& options) {
      options = good;
      options.password = password;
    });
  };
  EXPECT_EQ(refusal("open sesame"), "");
  EXPECT_EQ(refusal(""),
            "key_file '" + good.key_file + "' holds an encrypted key: give its password");
  EXPECT_EQ(refusal("close"), "key_file '" + good.key_file +
                                  "' holds an encrypted key that the password does not open");
}

TEST_F(TlsOptionsTest, ACertificateAndItsKeyMayBeInOneFile) {
  const Identity identity = certificates.authority().Issue();
  const std::string both = File("both.pem", identity.key + identity.certificate);
  EXPECT_EQ(Refusal([&](auto& options) {
              options.certificate_file = both;
              options.key_file = "";
            }),
            "");
}

TEST_F(TlsOptionsTest, OptionsOutOfRangeAreRefused) {
  EXPECT_TRUE(Refusal([](auto& options) {
                options.certificate_file = "";
              }).starts_with("certificate_file must be given"));
  EXPECT_TRUE(Refusal([](auto& options) { options.alpn = {""}; }).starts_with("alpn: a name has"));
  EXPECT_TRUE(Refusal([](auto& options) {
                options.alpn = {std::string(256, 'x')};
              }).starts_with("alpn: a name has"));
  EXPECT_EQ(Refusal([](auto& options) { options.alpn = {std::string(255, 'x')}; }), "");
  EXPECT_TRUE(Refusal([](auto& options) {
                options.verify = TlsVerify::kRequired;
              }).starts_with("verify needs ca_file"));
  EXPECT_TRUE(Refusal([this](auto& options) {
                options.ca_file = certificates.ca_file();
              }).starts_with("ca_file needs verify"));
  EXPECT_TRUE(Refusal([](auto& options) {
                options.min_version = TlsVersion::kTls13;
                options.max_version = TlsVersion::kTls12;
              }).starts_with("max_version must not be older"));
  EXPECT_TRUE(
      Refusal([](auto& options) { options.ciphers = "nonsense"; }).starts_with("ciphers: "));
  EXPECT_TRUE(
      Refusal([](auto& options) { options.ciphers = "TLS_NONSENSE"; }).starts_with("ciphers: "));
  EXPECT_EQ(
      Refusal([](auto& options) { options.ciphers = "TLS_CHACHA20_POLY1305_SHA256:ECDHE+AESGCM"; }),
      "");
  EXPECT_TRUE(Refusal([](auto& options) {
                options.handshake_timeout = {};
              }).starts_with("handshake_timeout must be"));
  EXPECT_TRUE(Refusal([](auto& options) {
                options.ticket_keys = {"short"};
              }).starts_with("ticket_keys: a key has"));
  EXPECT_TRUE(Refusal([](auto& options) {
                options.ticket_keys = {std::string(80, 'k')};
                options.session_tickets = false;
              }).starts_with("ticket_keys need"));
  EXPECT_TRUE(Refusal([](auto& options) { options.sni["a.*"] = {}; }).starts_with("sni: 'a.*'"));
  EXPECT_TRUE(Refusal([](auto& options) { options.sni["a"] = {}; }).starts_with("sni: 'a' must"));
  const Tls other = Tls::Server(certificates.Server());
  EXPECT_EQ(Refusal([&](auto& options) {
              options.sni["a."] = other;
              options.sni["A"] = other;
            }),
            "sni: 'a.' is there twice: case and a dot at the end do not count");
  EXPECT_TRUE(Refusal([&](auto& options) { options.sni["*."] = other; }).starts_with("sni: '*.'"));
}

TEST_F(TlsOptionsTest, TheNameOfAServerIsOneHostOrAddress) {
  const auto refusal = [&](const std::string& name) {
    TlsClientOptions options = certificates.Client();
    options.server_name = name;
    try {
      static_cast<void>(Tls::Client(options));
    } catch (const TlsError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  for (const char* const good : {"a", "a.example", "A.example.", "10.0.0.1", "::1", "1::2:3"}) {
    EXPECT_EQ(refusal(good), "") << good;
  }
  // With a dot in front OpenSSL takes every host below.
  for (const char* const bad :
       {".example.org", "*.example.org", ".", "::1%lo", "a:80", "\xc3\xa4"}) {
    EXPECT_TRUE(refusal(bad).starts_with("server_name: '")) << bad;
  }
  EXPECT_TRUE(refusal(std::string(256, 'a')).starts_with("server_name must have"));
}

TEST_F(TlsOptionsTest, ATlsNeedsItsFilesNoMore) {
  Tls tls;
  Tls client_tls;
  {
    const Certificates gone;
    tls = Tls::Server(gone.Server());
    client_tls = Tls::Client(gone.Client());
  }
  Connect(tls, client_tls, std::string::npos, 3);
  EXPECT_TRUE(server->ready() && client->ready());
}

TEST_F(TlsOptionsTest, TheCiphersAreThoseThatWereAskedFor) {
  TlsServerOptions options = certificates.Server();
  options.ciphers = "TLS_CHACHA20_POLY1305_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256";
  Connect(Tls::Server(options), Tls::Client(certificates.Client()));
  EXPECT_EQ(server->report().info.cipher, "TLS_CHACHA20_POLY1305_SHA256");
  options.max_version = TlsVersion::kTls12;
  Connect(Tls::Server(options), Tls::Client(certificates.Client()));
  EXPECT_EQ(server->report().info.cipher, "ECDHE-ECDSA-AES128-GCM-SHA256");
}

// ---- Tickets.

class TlsTicketTest : public TlsTest {
 protected:
  // The session that a client gets from a server.
  SessionPtr Session(const Tls& tls, SSL_CTX* context, std::size_t shard,
                     const std::string& host = "localhost") {
    MixedPair pair(tls, context, shard, host);
    pair.Run();
    EXPECT_TRUE(pair.server.ready()) << pair.server.report().fault;
    SSL_SESSION* const session = pair.client->session();
    // A copy: OpenSSL resumes no session of a connection that has gone without its end.
    return SessionPtr(session == nullptr ? nullptr : SSL_SESSION_dup(session));
  }
  bool Resumes(const Tls& tls, SSL_CTX* context, std::size_t shard, SSL_SESSION* session,
               const std::string& host = "localhost") {
    const SessionPtr copy(SSL_SESSION_dup(session));
    MixedPair pair(tls, context, shard, host, copy.get());
    pair.Run();
    EXPECT_EQ(pair.server.report().info.server_name, host);
    EXPECT_TRUE(pair.server.ready()) << pair.server.report().fault;
    EXPECT_EQ(SSL_session_reused(pair.client->ssl()) == 1, pair.server.report().info.resumed);
    return pair.server.report().info.resumed;
  }
  ClientContext Context(int version) {
    ClientContext context = NewClientContext(certificates.ca_file());
    SSL_CTX_set_max_proto_version(context.get(), version);
    SSL_CTX_use_certificate_file(context.get(), certificates.folder().Path("client.pem").c_str(),
                                 SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(context.get(), certificates.folder().Path("client.key").c_str(),
                                SSL_FILETYPE_PEM);
    return context;
  }
};

TEST_F(TlsTicketTest, ASessionGoesOnOnAnotherShard) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const ClientContext context = Context(version);
    const Tls tls = Tls::Server(certificates.Server());
    const SessionPtr session = Session(tls, context.get(), 0);
    ASSERT_NE(session, nullptr);
    EXPECT_TRUE(Resumes(tls, context.get(), 0, session.get()));
    EXPECT_TRUE(Resumes(tls, context.get(), 1, session.get()));
    EXPECT_FALSE(Resumes(Tls::Server(certificates.Server()), context.get(), 0, session.get()))
        << "another one has other keys";
  }
}

TEST_F(TlsTicketTest, AResumedSessionKeepsTheCertificateOfTheClient) {
  TlsServerOptions options = certificates.Server();
  options.verify = TlsVerify::kRequired;
  options.ca_file = certificates.ca_file();
  const Tls tls = Tls::Server(options);
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const ClientContext context = Context(version);
    const SessionPtr session = Session(tls, context.get(), 0);
    MixedPair pair(tls, context.get(), 1, "localhost", session.get());
    pair.Run();
    EXPECT_TRUE(pair.server.report().info.resumed);
    EXPECT_FALSE(pair.server.report().info.peer_certificate.empty());
  }
}

TEST_F(TlsTicketTest, ThereAreNoneWhereTheyAreOff) {
  TlsServerOptions options = certificates.Server();
  options.session_tickets = false;
  const Tls tls = Tls::Server(options);
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const ClientContext context = Context(version);
    const SessionPtr session = Session(tls, context.get(), 0);
    if (session != nullptr) {
      EXPECT_FALSE(Resumes(tls, context.get(), 0, session.get()));
    }
  }
}

TEST_F(TlsTicketTest, ProcessesWithTheSameKeysResumeEachOthersSessions) {
  for (const std::size_t size : {48U, 80U}) {
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
      const ClientContext context = Context(version);
      TlsServerOptions options = certificates.Server();
      options.ticket_keys = {std::string(size, 'k')};
      const SessionPtr session = Session(Tls::Server(options), context.get(), 0);
      options.ticket_keys.insert(options.ticket_keys.begin(), std::string(size, 'l'));
      EXPECT_TRUE(Resumes(Tls::Server(options), context.get(), 0, session.get()));
      options.ticket_keys.pop_back();
      EXPECT_FALSE(Resumes(Tls::Server(options), context.get(), 0, session.get()));
    }
  }
}

// A client without a certificate must not come in with a ticket of a host that asks for none.
TEST_F(TlsTicketTest, ATicketIsNoWayAroundAnotherHostsAuthorities) {
  CertificateOptions named;
  named.name = "strict.org";
  certificates.Issue("strict", named);
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    ClientContext context = NewClientContext(certificates.ca_file());
    SSL_CTX_set_max_proto_version(context.get(), version);
    TlsServerOptions strict = certificates.Server("strict");
    strict.ticket_keys = {std::string(80, 'k')};
    strict.verify = TlsVerify::kRequired;
    strict.ca_file = certificates.ca_file();
    TlsServerOptions options = certificates.Server("strict");  // it is no other certificate
    options.ticket_keys = strict.ticket_keys;
    options.sni["strict.org"] = Tls::Server(strict);
    const Tls tls = Tls::Server(options);
    const SessionPtr session = Session(tls, context.get(), 0, "");
    ASSERT_NE(session, nullptr);
    EXPECT_TRUE(Resumes(tls, context.get(), 0, session.get(), ""));
    MixedPair pair(tls, context.get(), 0, "strict.org", session.get());
    pair.Run();
    EXPECT_FALSE(pair.server.ready());
    EXPECT_EQ(pair.server.report().fault, "the peer has shown no certificate");
  }
}

TEST(TicketKeysTest, AKeyOfItsOwnEncryptsForAnHourAndDecryptsForTwoMore) {
  TicketKeys keys({});
  const TicketKeys::TimePoint begin{hours(1000)};
  TicketKey first;
  ASSERT_TRUE(keys.Current(begin, &first));
  TicketKey key;
  ASSERT_TRUE(keys.Current(begin + minutes(59), &key));
  EXPECT_EQ(key.name, first.name);
  ASSERT_TRUE(keys.Current(begin + minutes(61), &key));
  EXPECT_NE(key.name, first.name);
  EXPECT_NE(key.cipher, first.cipher);
  bool is_current = true;
  ASSERT_TRUE(keys.Find(first.name.data(), begin + minutes(62), &key, &is_current));
  EXPECT_FALSE(is_current);
  EXPECT_EQ(key.cipher, first.cipher);
  EXPECT_EQ(key.mac, first.mac);
  EXPECT_TRUE(keys.Find(first.name.data(), begin + minutes(122), &key, &is_current));
  EXPECT_FALSE(keys.Find(first.name.data(), begin + minutes(183), &key, &is_current));
}

// Both ask for certificates, of authorities of their own.
TEST_F(TlsTicketTest, ATicketIsNoWayToOtherAuthorities) {
  const Certificates strangers;
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const ClientContext context = Context(version);
    TlsServerOptions options = certificates.Server();
    options.ticket_keys = {std::string(80, 'k')};
    options.verify = TlsVerify::kRequired;
    options.ca_file = certificates.ca_file();
    const SessionPtr session = Session(Tls::Server(options), context.get(), 0);
    ASSERT_NE(session, nullptr);
    EXPECT_TRUE(Resumes(Tls::Server(options), context.get(), 0, session.get()));
    options.ca_file = strangers.ca_file();
    MixedPair pair(Tls::Server(options), context.get(), 0, "localhost", session.get());
    pair.Run();
    EXPECT_FALSE(pair.server.ready());
    EXPECT_EQ(pair.server.report().failure, TlsFailure::kCertificate);
  }
}

TEST_F(TlsTicketTest, ATicketOpensNoHostWithAnotherCertificate) {
  TlsServerOptions options = certificates.Server();
  options.ticket_keys = {std::string(80, 'k')};
  for (const std::string name : {"public.test", "other.test", "*.shared.test"}) {
    CertificateOptions named;
    named.name = name;
    const std::string file = name.starts_with('*') ? "any" + name.substr(1) : name;
    certificates.Issue(file, named);
    TlsServerOptions host = certificates.Server(file);
    host.ticket_keys = options.ticket_keys;
    options.sni[name] = Tls::Server(host);
  }
  const Tls tls = Tls::Server(options);
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const ClientContext context = Context(version);
    const SessionPtr session = Session(tls, context.get(), 0, "public.test");
    ASSERT_NE(session, nullptr);
    EXPECT_TRUE(Resumes(tls, context.get(), 1, session.get(), "public.test"));
    EXPECT_FALSE(Resumes(tls, context.get(), 1, session.get(), "other.test"));
    EXPECT_FALSE(Resumes(tls, context.get(), 1, session.get()));
    const SessionPtr shared = Session(tls, context.get(), 0, "a.shared.test");
    ASSERT_NE(shared, nullptr);
    EXPECT_TRUE(Resumes(tls, context.get(), 1, shared.get(), "b.shared.test"));
  }
}

// Not by count: one use in almost three hours makes a new key each time.
TEST(TicketKeysTest, AKeyThatIsUsedRarelyLivesNoLonger) {
  TicketKeys keys({});
  const TicketKeys::TimePoint begin{hours(1000)};
  TicketKey first;
  ASSERT_TRUE(keys.Current(begin, &first));
  TicketKey second;
  ASSERT_TRUE(keys.Current(begin + minutes(179), &second));
  EXPECT_NE(second.name, first.name);
  TicketKey key;
  bool is_current = false;
  EXPECT_TRUE(keys.Find(first.name.data(), begin + minutes(179), &key, &is_current));
  EXPECT_FALSE(keys.Find(first.name.data(), begin + minutes(180), &key, &is_current));
  EXPECT_TRUE(keys.Find(second.name.data(), begin + minutes(358), &key, &is_current));
  EXPECT_FALSE(keys.Find(second.name.data(), begin + minutes(359), &key, &is_current));
}

TEST(TicketKeysTest, AKeyThatGoesIsWiped) {
  alignas(TicketKey) unsigned char memory[sizeof(TicketKey)];
  std::memset(memory, 'k', sizeof(memory));
  auto* const key = new (memory) TicketKey;
  key->cipher.fill('k');
  key->mac.fill('k');
  key->~TicketKey();
  EXPECT_EQ(std::count(std::begin(memory), std::end(memory), 'k'), 0);
}

TEST(TicketKeysTest, AfterALongTimeNoOldKeyIsLeft) {
  TicketKeys keys({});
  const TicketKeys::TimePoint begin{hours(1000)};
  TicketKey first;
  ASSERT_TRUE(keys.Current(begin, &first));
  TicketKey key;
  bool is_current = false;
  EXPECT_FALSE(keys.Find(first.name.data(), begin + hours(3), &key, &is_current));
}

}  // namespace
}  // namespace iocp::testing
