// TLS over a wire that is cut at each of its bytes, in both directions: in two parts, which must
// make no difference, and for good, which must never look like an orderly end.
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>

#include "stage/tls_fixture.h"

namespace iocp::testing {
namespace {

enum class Direction : std::uint8_t { kToServer, kToClient };

class TlsCutTest : public ::testing::TestWithParam<std::tuple<TlsVersion, Direction>> {
 protected:
  TlsCutTest() {
    TlsServerOptions options = certificates_.Server();
    options.min_version = std::get<0>(GetParam());
    options.max_version = options.min_version;
    server_tls_ = Tls::Server(options);
    client_tls_ = Tls::Client(certificates_.Client());
  }

  // A whole conversation, whose wire is cut before byte `at`; when it `ends` there nothing follows.
  // False when the wire has not so many bytes.
  bool Converse(std::size_t at, bool ends) {
    TlsEnd client(client_tls_, 0);
    TlsEnd server(server_tls_, 0);
    Cut cut{at, ends, std::get<1>(GetParam()) == Direction::kToServer ? &server : &client};
    const auto exchange = [&] {
      for (;;) {
        const bool there = Pass(client, server, cut);
        const bool back = Pass(server, client, cut);
        if (!there && !back) return;
      }
    };
    exchange();
    client.Send(there_);
    server.Send(back_);
    exchange();
    client.EndSend();
    exchange();
    server.EndSend();
    exchange();
    if (cut.done && ends) {
      ExpectCutOff(*cut.receiver, cut.receiver == &server ? there_ : back_);
    } else {
      ExpectWhole(server, there_);
      ExpectWhole(client, back_);
    }
    return cut.done;
  }

  // Cuts at each byte in turn.
  void CutEverywhere(bool ends) {
    std::size_t at = 0;
    while (Converse(at, ends)) {
      ASSERT_FALSE(HasFailure()) << "cut before byte " << at;
      ++at;
    }
    // The handshake, the data, and the end.
    EXPECT_GT(at, there_.size() + 300);
  }

 private:
  struct Cut {
    std::size_t at;
    bool ends;
    TlsEnd* receiver;
    std::size_t passed = 0;  // bytes
    bool done = false;       // true exactly when the wire was cut
  };

  static bool Pass(TlsEnd& from, TlsEnd& to, Cut& cut) {
    const std::string wire = from.Take();
    if (&to != cut.receiver) {
      to.Receive(wire);
      return !wire.empty();
    }
    if (cut.done && cut.ends) return false;
    const std::size_t before = cut.passed;
    cut.passed += wire.size();
    if (cut.done || cut.at >= cut.passed) {
      to.Receive(wire);
      return !wire.empty();
    }
    cut.done = true;
    to.Receive(std::string_view(wire).substr(0, cut.at - before));
    if (cut.ends) {
      to.EndReceive();
    } else {
      to.Receive(std::string_view(wire).substr(cut.at - before));
    }
    return true;
  }

  static void ExpectWhole(const TlsEnd& end, const std::string& sent) {
    EXPECT_FALSE(end.error) << end.report().fault;
    EXPECT_EQ(end.received, sent);
    EXPECT_EQ(end.ends, 1);
  }
  static void ExpectCutOff(const TlsEnd& end, const std::string& sent) {
    EXPECT_EQ(end.error.kind, ErrorKind::kTruncated) << end.report().fault;
    EXPECT_TRUE(sent.starts_with(end.received));
    EXPECT_EQ(end.ends, 0);
  }

  const Certificates certificates_{true};
  Tls server_tls_;
  Tls client_tls_;
  const std::string there_ = std::string(50, 't');
  const std::string back_ = std::string(70, 'b');
};

TEST_P(TlsCutTest, InTwoPartsItIsWhole) { CutEverywhere(false); }

TEST_P(TlsCutTest, ForGoodItIsNeverAnOrderlyEnd) { CutEverywhere(true); }

INSTANTIATE_TEST_SUITE_P(
    Wires, TlsCutTest,
    ::testing::Combine(::testing::Values(TlsVersion::kTls12, TlsVersion::kTls13),
                       ::testing::Values(Direction::kToServer, Direction::kToClient)),
    [](const auto& wire) {
      const bool tls12 = std::get<0>(wire.param) == TlsVersion::kTls12;
      const bool to_server = std::get<1>(wire.param) == Direction::kToServer;
      return std::string(tls12 ? "Tls12" : "Tls13") + (to_server ? "ToServer" : "ToClient");
    });

}  // namespace
}  // namespace iocp::testing
