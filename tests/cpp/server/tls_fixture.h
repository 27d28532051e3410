// A server with TLS on one of the ports of this system, and clients of OpenSSL.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "port/loopback.h"
#include "server/server_fixture.h"
#include "support/certificates.h"
#include "support/tls_peer.h"

namespace iocp::testing {

class TlsServerTest : public ServerTest {
 protected:
  Options OnTls(int workers = 1) { return OnTls(certificates.Server(), workers); }
  Options OnTls(const TlsServerOptions& tls, int workers = 1) {
    Options options = On(workers);
    options.tls = Tls::Server(tls);
    return options;
  }
  std::unique_ptr<Peer> DialPlain() {
    auto wire = std::make_unique<LoopbackPeer>(server_.address(), kNoClientSocket);
    EXPECT_TRUE(wire->connected());
    return wire;
  }
  std::unique_ptr<TlsPeer> Dial(SSL_SESSION* session = nullptr) {
    return std::make_unique<TlsPeer>(DialPlain(), context.get(), "localhost", session);
  }
  // Steps a client until `until()`; false when that takes too long.
  template <typename Until>
  static bool Run(TlsPeer& client, Until until) {
    const auto deadline = std::chrono::steady_clock::now() + kDeadline;
    while (!until()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      client.Step();
      std::this_thread::yield();
    }
    return true;
  }
  static bool Shake(TlsPeer& client) {
    return Run(client, [&] { return client.handshake_done() || client.failure() != 0; }) &&
           client.failure() == 0;
  }
  // Sends all of `data`, and receives so many bytes meanwhile and then.
  static std::string Talk(TlsPeer& client, std::string_view data, std::size_t bytes) {
    std::string received;
    Run(client, [&] {
      data.remove_prefix(client.Send(data.substr(0, 20'000)));
      received += client.Receive(100'000);
      return (data.empty() && client.idle() && received.size() >= bytes) ||
             client.state() != Peer::State::kOpen;
    });
    return received;
  }
  // Until the server has ended the connection.
  static bool AwaitEnd(TlsPeer& client) {
    return Run(client, [&] {
      client.Receive(100'000);
      return client.state() != Peer::State::kOpen;
    });
  }
  std::uint64_t Failures(TlsFailure failure) {
    return server_.stats().tls_failures[static_cast<std::size_t>(failure)];
  }
  // No hook was called, and nothing but that failure was counted.
  void ExpectOnly(TlsFailure failure, std::uint64_t count) {
    EXPECT_TRUE(Eventually([&] { return Failures(failure) == count; }))
        << Failures(failure) << " of " << count;
    EXPECT_TRUE(Eventually([&] { return server_.connection_count() == 0; }));
    const Stats stats = server_.stats();
    for (std::size_t i = 0; i < kTlsFailures; ++i) {
      EXPECT_EQ(stats.tls_failures[i], i == static_cast<std::size_t>(failure) ? count : 0) << i;
    }
    EXPECT_EQ(stats.established, 0U);
    EXPECT_EQ(stats.tls_handshakes, 0U);
    EXPECT_EQ(stats.hook_calls, 0U);
    EXPECT_TRUE(handler_.records.empty());
  }

  const Certificates certificates;
  const ClientContext context = NewClientContext(certificates.ca_file());
};

}  // namespace iocp::testing
