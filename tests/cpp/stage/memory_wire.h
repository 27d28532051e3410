// A wire between a stage and a client of OpenSSL, in memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "port/peer.h"
#include "stage/tls_fixture.h"
#include "support/tls_peer.h"

namespace iocp::testing {

// The client's end of it.
class MemoryWire final : public Peer {
 public:
  std::size_t Send(std::string_view data) override {
    to_server += data;
    return data.size();
  }
  std::string Receive(std::size_t most) override {
    std::string data = to_client.substr(0, most);
    to_client.erase(0, data.size());
    return data;
  }
  [[nodiscard]] State state() const override { return State::kOpen; }
  void EndStream() override {}
  void Close() override {}
  void Reset() override {}
  [[nodiscard]] std::uint16_t port() const override { return 0; }

  std::string to_server;
  std::string to_client;
};

// A server's stage and a client of OpenSSL.
class MixedPair {
 public:
  MixedPair(const Tls& tls, SSL_CTX* context, std::size_t shard = 0,
            const std::string& host = "localhost", SSL_SESSION* session = nullptr)
      : server(tls, shard) {
    auto wire = std::make_unique<MemoryWire>();
    wire_ = wire.get();
    client = std::make_unique<TlsPeer>(std::move(wire), context, host, session);
  }

  // Until nothing moves any more.
  void Run() {
    for (;;) {
      client->Step();
      const std::string to_server = std::exchange(wire_->to_server, {});
      server.Receive(to_server);
      const std::string to_client = server.Take();
      wire_->to_client += to_client;
      if (to_server.empty() && to_client.empty()) return;
    }
  }
  [[nodiscard]] MemoryWire& wire() { return *wire_; }
  // All that the client has got.
  std::string Received() {
    std::string all;
    while (true) {
      const std::string more = client->Receive(100'000);
      if (more.empty()) return all;
      all += more;
    }
  }

  TlsEnd server;
  std::unique_ptr<TlsPeer> client;

 private:
  MemoryWire* wire_ = nullptr;
};

}  // namespace iocp::testing
