// The stream of one connection of iocp_load: its socket, TLS over that, and HTTP over either.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "load_options.h"

namespace load {

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  void operator()(SSL_SESSION* session) const { SSL_SESSION_free(session); }
};
using SslPtr = std::unique_ptr<SSL, FreeSsl>;

// The part that all TLS connections share. They speak TLS 1.3 with one cipher and one key exchange,
// so that all servers do the same work, and check the server's certificate.
class TlsClient {
 public:
  // `authority`: a file with the certificate that the server's comes from. `resumes`: whether each
  // connection goes on with the last session that a server has given to another.
  TlsClient(const std::string& authority, bool resumes);
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;
  ~TlsClient() = default;

  SslPtr Open();
  // True exactly when a server has given a session.
  [[nodiscard]] bool has_session() const { return session_ != nullptr; }

 private:
  static int OnSession(SSL* ssl, SSL_SESSION* session);

  const bool resumes_;
  std::unique_ptr<SSL_CTX, FreeSsl> context_;
  std::unique_ptr<SSL_SESSION, FreeSsl> session_;  // the last; null without
};

// One connection. It does not own the socket, which does not block once there is TLS.
class Stream {
 public:
  // `tls` is null without.
  void Begin(int fd, TlsClient* tls, bool http);
  // Returns how many bytes were taken: less than `size` when it takes no more for now.
  std::size_t Send(const char* data, std::size_t size);
  // Sends what waits in the stream itself.
  void Flush();
  // Returns how many bytes came: 0 for none, whether for now or for ever. Without `look` the bytes
  // of a bare socket are dropped, and only counted.
  std::size_t Receive(char* to, std::size_t size, bool look);
  // True when there may be more to receive and no event will say so.
  [[nodiscard]] bool more() const {
    return full_ || !wire_.empty() || (ssl_ != nullptr && SSL_pending(ssl_.get()) != 0);
  }
  // True exactly when the server was asked to resume a session, and has not.
  [[nodiscard]] bool refused_session() const {
    return offers_session_ && SSL_session_reused(ssl_.get()) == 0;
  }
  // Tells the server that nothing follows.
  void End();

 private:
  friend struct StreamBio;

  std::size_t SendBelow(const char* data, std::size_t size);
  std::size_t ReceiveBelow(char* to, std::size_t size, bool look);
  std::size_t ReceiveReply(char* to, std::size_t size);
  std::size_t SendToSocket(const char* data, std::size_t size) const;
  std::size_t ReceiveFromSocket(char* to, std::size_t size, int flags);
  void CheckTls(int result, const char* step) const;

  int fd_ = -1;
  SslPtr ssl_;
  bool http_ = false;
  bool offers_session_ = false;  // true exactly when the server was asked to resume a session
  bool full_ = false;            // true exactly when the last receive filled its buffer
  std::string_view wire_;        // received bytes that TLS has not read: in a buffer that all share
  std::string out_;              // made by TLS, and not taken by the system yet
  std::string reply_;            // the beginning of a reply
};

}  // namespace load
