// Peers that do what no library does by itself: another name in the second hello, messages that are
// cut between records.
#include <gtest/gtest.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "stage/memory_wire.h"
#include "stage/tls/ssl_context.h"
#include "stage/tls_fixture.h"
#include "support/tls_records.h"

namespace iocp::testing {
namespace {

// ---- The second hello.

// Asks for another name once the server has answered.
void AskForAdmin(int sent, int, int type, const void* message, std::size_t, SSL* ssl, void*) {
  if (sent != 0 || type != SSL3_RT_HANDSHAKE) return;
  if (*static_cast<const unsigned char*>(message) != SSL3_MT_SERVER_HELLO) return;
  SSL_set_tlsext_host_name(ssl, "admin.test");
}

class TlsSecondHelloTest : public TlsTest {
 protected:
  TlsSecondHelloTest() {
    for (const char* const name : {"admin.test", "nested.test"}) {
      CertificateOptions options;
      options.name = name;
      certificates.Issue(name, options);
    }
    // The server has no P-521: it asks for a key of another kind, in a second hello.
    SSL_CTX_set1_groups_list(context_.get(), "P-521:P-256");
    TlsServerOptions admin = certificates.Server("admin.test");
    admin.verify = TlsVerify::kRequired;
    admin.ca_file = certificates.ca_file();
    admin.sni["admin.test"] = Tls::Server(certificates.Server("nested.test"));
    TlsServerOptions options = certificates.Server();
    options.sni["admin.test"] = Tls::Server(admin);
    tls_ = Tls::Server(options);
  }

  const ClientContext context_ = NewClientContext("");
  Tls tls_;
};

TEST_F(TlsSecondHelloTest, AnotherNameIsRefused) {
  for (const char* const first : {"public.test", ""}) {
    SSL_CTX_set_msg_callback(context_.get(), &AskForAdmin);
    MixedPair pair(tls_, context_.get(), 0, first);
    pair.Run();
    EXPECT_FALSE(pair.server.ready()) << "without the certificate that admin.test asks for";
    EXPECT_EQ(pair.server.error.kind, ErrorKind::kTls);
    EXPECT_EQ(pair.server.report().fault, "TLS failed: bad extension");
    EXPECT_EQ(pair.client->failure(), SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER);
  }
}

TEST_F(TlsSecondHelloTest, TheChoiceOfTheFirstStays) {
  MixedPair bare(tls_, context_.get(), 0, "admin.test");
  bare.Run();
  EXPECT_EQ(bare.server.report().fault, "the peer has shown no certificate");
  SSL_CTX_use_certificate_file(context_.get(), certificates.folder().Path("client.pem").c_str(),
                               SSL_FILETYPE_PEM);
  SSL_CTX_use_PrivateKey_file(context_.get(), certificates.folder().Path("client.key").c_str(),
                              SSL_FILETYPE_PEM);
  MixedPair pair(tls_, context_.get(), 0, "ADMIN.test");
  pair.Run();
  EXPECT_TRUE(pair.server.ready()) << pair.server.report().fault;
  EXPECT_EQ(pair.server.report().info.server_name, "admin.test");
  EXPECT_FALSE(pair.server.report().info.peer_certificate.empty());
  X509* const shown = SSL_get0_peer_certificate(pair.client->ssl());
  ASSERT_NE(shown, nullptr);
  EXPECT_EQ(X509_check_host(shown, "admin.test", 0, 0, nullptr), 1) << "and not that of its sni";
}

// ---- Messages behind the handshake that are cut between records.

class TlsCutMessageTest : public TlsTest {
 protected:
  // Without tickets, so that neither side has sent a record behind the handshake.
  void ConnectWatched(bool allow_truncation = false) {
    TlsServerOptions options = certificates.Server();
    options.session_tickets = false;
    options.allow_truncation = allow_truncation;
    server_tls_ = Tls::Server(options);
    TlsSecrets::Watch(server_tls_.description()->ContextOf(0).get());
    Connect(server_tls_, Tls::Client(certificates.Client()));
    ASSERT_TRUE(server->ready() && client->ready());
    ASSERT_EQ(client->report().info.cipher, "TLS_AES_256_GCM_SHA384");
  }

  TlsSecrets secrets_;
  Tls server_tls_;
};

// The client wants a new key of the server, too, or not.
TEST_F(TlsCutMessageTest, AServerSendsAndEndsBehindAKeyUpdate) {
  for (const char request : {'\0', '\1'}) {
    const std::string message = std::string("\x18\0\0\1", 4) + request;
    for (std::size_t cut = 1; cut < message.size(); ++cut) {
      ConnectWatched();
      TlsRecordWriter writer(secrets_.client);
      server->Receive(writer.Record(SSL3_RT_APPLICATION_DATA, "hello"));
      server->Receive(writer.Record(SSL3_RT_HANDSHAKE, message.substr(0, cut)));
      EXPECT_EQ(server->received, "hello");
      server->Send("the ");
      server->Send("reply");
      server->EndSend();
      std::string wire = server->Take();
      EXPECT_FALSE(server->error) << cut << ": " << server->report().fault;
      if (!server->stack().ended()) {
        EXPECT_EQ(cut, 4U) << "OpenSSL knows what message it is";
        EXPECT_EQ(wire, "");
      }
      server->Receive(writer.Record(SSL3_RT_HANDSHAKE, message.substr(cut)));
      wire += server->Take();
      EXPECT_FALSE(server->error) << cut << ": " << server->report().fault;
      EXPECT_TRUE(server->stack().ended());
      client->Receive(wire);
      EXPECT_EQ(client->received, "the reply");
      EXPECT_EQ(client->ends, 1);
      EXPECT_FALSE(client->error) << client->report().fault;
    }
  }
}

TEST_F(TlsCutMessageTest, AClientSendsAndEndsBehindATicket) {
  // Lifetime, a number to add to its age, a nonce, the ticket, no extensions.
  const std::string body = std::string("\0\0\x0e\x10", 4) + "age+" + std::string("\1n", 2) +
                           std::string("\0\x0a", 2) + std::string(10, 't') + std::string(2, '\0');
  const std::string message = std::string("\4\0\0", 3) + static_cast<char>(body.size()) + body;
  for (std::size_t cut = 1; cut < message.size(); ++cut) {
    ConnectWatched();
    TlsRecordWriter writer(secrets_.server);
    client->Receive(writer.Record(SSL3_RT_HANDSHAKE, message.substr(0, cut)));
    client->Send("a question");
    client->EndSend();
    std::string wire = client->Take();
    EXPECT_EQ(client->stack().ended(), cut < 4) << cut;
    client->Receive(writer.Record(SSL3_RT_HANDSHAKE, message.substr(cut)));
    wire += client->Take();
    EXPECT_FALSE(client->error) << cut << ": " << client->report().fault;
    server->Receive(wire);
    EXPECT_EQ(server->received, "a question");
    EXPECT_EQ(server->ends, 1);
    client->Receive(writer.Record(SSL3_RT_APPLICATION_DATA, "an answer"));
    EXPECT_EQ(client->received, "an answer");
  }
}

// Or sends would wait for the rest for ever.
TEST_F(TlsCutMessageTest, AStreamThatEndsInsideIsAnError) {
  const std::string part("\x18\0\0\1", 4);
  for (const bool in_order : {false, true}) {
    ConnectWatched(true);
    TlsRecordWriter writer(secrets_.client);
    server->Receive(writer.Record(SSL3_RT_HANDSHAKE, part));
    EXPECT_FALSE(server->error);
    if (in_order) {
      server->Receive(writer.Record(SSL3_RT_ALERT, std::string("\1\0", 2)));
    } else {
      server->EndReceive();
    }
    EXPECT_EQ(server->error.kind, in_order ? ErrorKind::kTls : ErrorKind::kTruncated);
    EXPECT_EQ(server->ends, 0);
  }
}

}  // namespace
}  // namespace iocp::testing
