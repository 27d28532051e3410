// A client that speaks TLS with OpenSSL in the ordinary way, over a peer that knows nothing of TLS.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "port/peer.h"
#include "stage/tls/openssl.h"

namespace iocp::testing {

using ClientContext = SslCtxPtr;
using SessionPtr = std::unique_ptr<SSL_SESSION, FreeWith<&SSL_SESSION_free>>;

// A context that trusts the certificates in `ca_file`; "": it checks nothing.
ClientContext NewClientContext(const std::string& ca_file);

class TlsPeer final : public Peer {
 public:
  // Asks for `host`, where that is not "". `session` may be null. The context must outlive it.
  TlsPeer(std::unique_ptr<Peer> wire, SSL_CTX* context, const std::string& host = "localhost",
          SSL_SESSION* session = nullptr);
  ~TlsPeer() override = default;

  // Takes all when nothing waits, and otherwise nothing; also before the handshake is done. Takes
  // nothing behind the end of its own stream.
  std::size_t Send(std::string_view data) override;
  std::string Receive(std::size_t most) override;
  // kEnded only when the stream has ended with the end of TLS.
  [[nodiscard]] State state() const override;
  void EndStream() override;
  // Ends the stream without the end of TLS.
  void Truncate() { wire_->EndStream(); }
  void Close() override { wire_->Close(); }
  void Reset() override { wire_->Reset(); }
  [[nodiscard]] std::uint16_t port() const override { return wire_->port(); }

  // Moves what can be moved.
  void Step();
  [[nodiscard]] bool handshake_done() const { return SSL_is_init_finished(ssl_.get()) == 1; }
  // Bytes that were taken, and are not with the wire.
  [[nodiscard]] std::size_t waiting() const { return out_.size() + plain_.size(); }
  // True exactly when nothing waits to be sent.
  [[nodiscard]] bool idle() const { return waiting() == 0; }
  [[nodiscard]] bool ended_in_order() const { return ended_; }
  // True exactly when the end of its own stream is with the wire.
  [[nodiscard]] bool said_end() const { return said_end_ && out_.empty(); }
  // OpenSSL's reason of what has failed; 0: nothing has. Alerts are from 1000 on.
  [[nodiscard]] int failure() const { return failure_; }
  [[nodiscard]] SSL* ssl() { return ssl_.get(); }
  // The last session that the server has given; null: none.
  [[nodiscard]] SSL_SESSION* session() const { return session_.get(); }

 private:
  void Pump();
  void Read();
  void Note(int result);
  bool Flush();
  static int OnSession(SSL* ssl, SSL_SESSION* session);

  const std::unique_ptr<Peer> wire_;
  SslPtr ssl_;
  SessionPtr session_;
  std::string plain_;      // taken, and not encrypted yet
  std::string out_;        // encrypted, and not sent
  std::string received_;   // decrypted, and not asked for yet
  bool ended_ = false;     // true exactly when the server has ended its stream of TLS
  bool said_end_ = false;  // true exactly when it has ended its own
  int failure_ = 0;
};

}  // namespace iocp::testing
