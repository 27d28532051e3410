#include "stage/tls_differential.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "sim/pattern.h"
#include "stage/memory_wire.h"
#include "support/certificates.h"
#include "support/openssl_chance.h"
#include "support/tls_peer.h"

namespace iocp::testing {
namespace {

// KeyUpdates that a server must take: its bound is 100 messages that are not data.
constexpr std::size_t kMostKeyUpdates = 90;
// Bytes of a server beside its data, and beside an answer to each record.
constexpr std::size_t kMostAnswer = std::size_t{64} * 1024;

struct Shared {
  Shared() {
    SeedOpenSsl(0);
    const Certificates certificates(true);
    TlsServerOptions options = certificates.Server();
    options.ticket_keys = {std::string(80, 'k')};
    options.alpn = {"h2", "http/1.1"};
    server = Tls::Server(options);
    context = NewClientContext(certificates.ca_file());
  }
  Tls server;
  ClientContext context;
};

class Run {
 public:
  explicit Run(sim::Choices& choices) : choices_(choices), pair_(SharedTls().server, Context()) {}

  TlsDifferential Go() {
    for (std::size_t moves = choices_.Size(200); moves > 0 && !done(); --moves) Move();
    if (!broken_ && !ended_) Exchange();
    Check();
    result_.delivered = pair_.server.received.size();
    result_.connected = pair_.server.ready();
    result_.refused = static_cast<bool>(pair_.server.error);
    return std::move(result_);
  }

 private:
  static Shared& SharedTls() {
    static Shared shared;
    return shared;
  }
  SSL_CTX* Context() {
    SeedOpenSsl(0);
    SSL_CTX* const context = SharedTls().context.get();
    SSL_CTX_set_max_proto_version(context,
                                  choices_.Below(2) == 0 ? TLS1_3_VERSION : TLS1_2_VERSION);
    return context;
  }

  [[nodiscard]] bool done() const { return !result_.failure.empty() || ended_; }
  void Fail(const std::string& what) {
    if (result_.failure.empty()) result_.failure = what;
  }

  void Move() {
    switch (choices_.Below(10)) {
      case 0:
      case 1:
        return Exchange();
      case 2: {
        if (said_end_) return;
        const std::string data = up_.At(sent_, choices_.Size(40'000));
        sent_ += pair_.client->Send(data);
        return;
      }
      case 3: {
        const std::string data = down_.At(answered_, choices_.Size(40'000));
        if (pair_.server.error || closed_) return;
        answered_ += data.size();
        pair_.server.Send(data);
        return;
      }
      case 4:
        return UpdateKeys();
      case 5:
        if (pair_.client->handshake_done() && !said_end_) {
          pair_.client->EndStream();
          said_end_ = pair_.client->said_end();
        }
        return;
      case 6:
        if (pair_.server.ready() && !pair_.server.error && !std::exchange(closed_, true)) {
          pair_.server.EndSend();
        }
        return;
      case 7:
        if (choices_.Below(4) != 0) return;
        ended_ = true;
        pair_.server.EndReceive();
        return;
      case 8:
        return Change();
      default:
        return MakeUp();
    }
  }

  // All that is under way arrives, in parts.
  void Exchange() {
    const std::size_t step = choices_.Below(3) == 0 ? choices_.Size(2000) : 100'000;
    for (;;) {
      pair_.client->Step();
      const std::string there = std::exchange(pair_.wire().to_server, {});
      for (std::size_t at = 0; at < there.size(); at += step) {
        pair_.server.Receive(std::string_view(there).substr(at, step));
      }
      const std::string back = pair_.server.Take();
      if (back.size() > answered_ + kMostAnswer + 100 * there.size()) Fail("an answer is too long");
      pair_.wire().to_client += back;
      if (there.empty() && back.empty()) return;
    }
  }

  void UpdateKeys() {
    if (!pair_.client->handshake_done() || !pair_.client->idle() || said_end_ ||
        pair_.client->failure() != 0 || SSL_version(pair_.client->ssl()) != TLS1_3_VERSION) {
      return;
    }
    const std::size_t count = choices_.Size(40);
    updates_ += count;
    if (updates_ > kMostKeyUpdates) broken_ = true;
    for (std::size_t i = 0; i < count; ++i) {
      const bool asks = choices_.Below(2) == 0;
      SSL_key_update(pair_.client->ssl(),
                     asks ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
      SSL_do_handshake(pair_.client->ssl());
    }
    pair_.client->Send({});
  }

  // Changes a part of the bytes that are on their way to the server.
  void Change() {
    std::string& wire = pair_.wire().to_server;
    pair_.client->Step();
    if (wire.empty()) return;
    broken_ = true;
    const std::size_t at = choices_.Below(wire.size());
    const std::size_t size = choices_.Size(wire.size() - at);
    switch (choices_.Below(4)) {
      case 0:
        wire[at] = static_cast<char>(choices_.Below(256));
        return;
      case 1:
        wire.erase(at, size);
        return;
      case 2:
        wire.insert(at, wire.substr(at, size));
        return;
      default:
        wire.insert(at, 1, static_cast<char>(choices_.Below(256)));
        return;
    }
  }

  // Makes up a record, or bytes that begin as one.
  void MakeUp() {
    if (choices_.Below(2) == 0) return;
    broken_ = true;
    const std::size_t size = choices_.Size(600);
    std::string record;
    record +=
        static_cast<char>(choices_.Below(2) == 0 ? 20 + choices_.Below(5) : choices_.Below(256));
    record += '\3';
    record += static_cast<char>(choices_.Below(5));
    record += static_cast<char>(size >> 8U);
    record += static_cast<char>(size & 0xffU);
    for (std::size_t i = 0; i < size; ++i) record += static_cast<char>(choices_.Below(256));
    pair_.wire().to_server += record;
  }

  void Check() {
    const TlsEnd& server = pair_.server;
    if (server.received.size() > sent_ || !up_.Is(0, server.received)) {
      Fail("the server gets what was not sent");
    }
    const std::string answer = pair_.Received();
    if (answer.size() > answered_ || !down_.Is(0, answer))
      Fail("the client gets what was not sent");
    if (server.ends > 1 || (server.ends == 1 && !said_end_)) Fail("an end that was not said");
    if (server.error && !broken_ && server.error.kind != ErrorKind::kTruncated) {
      Fail("TLS is refused: " + server.report().fault);
    }
    if (server.error.kind == ErrorKind::kTruncated && !ended_)
      Fail("a stream is cut off, and it was not");
    if (server.error && server.report().fault.empty()) Fail("an error without a reason");
    if (broken_ || ended_) return;
    if (pair_.client->failure() != 0) Fail("what the server sends is no TLS");
    if (!server.ready() || server.received.size() != sent_) Fail("something has not arrived");
    if (said_end_ != (server.ends == 1)) Fail("the end has not arrived");
  }

  sim::Choices& choices_;
  MixedPair pair_;
  const sim::Pattern up_{1};
  const sim::Pattern down_{2};
  std::size_t sent_ = 0;
  std::size_t answered_ = 0;
  std::size_t updates_ = 0;
  bool said_end_ = false;  // true exactly when the client has ended its stream
  bool closed_ = false;    // true exactly when the server has
  bool ended_ = false;     // true exactly when the wire to the server has ended
  bool broken_ = false;    // true exactly when the server may refuse what comes
  TlsDifferential result_;
};

}  // namespace

TlsDifferential CompareTls(sim::Choices& choices) { return Run(choices).Go(); }

}  // namespace iocp::testing
