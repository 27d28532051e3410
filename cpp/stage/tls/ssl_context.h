// One SSL_CTX: what the connections of one shard share.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "stage/tls/openssl.h"
#include "stage/tls/tls_description.h"

namespace iocp {

// Constant once it is made: OpenSSL allows no change of a context that connections use.
class SslContext {
 public:
  // Throws TlsError and std::bad_alloc. `description` must outlive it and its connections.
  SslContext(TlsDescription& description, std::size_t shard);
  SslContext(const SslContext&) = delete;
  SslContext& operator=(const SslContext&) = delete;
  ~SslContext() = default;

  [[nodiscard]] SSL_CTX* get() const { return ssl_ctx_.get(); }
  [[nodiscard]] const TlsDescription& description() const { return description_; }
  static const SslContext& Of(const SSL_CTX* ssl_ctx);

  // The context for clients that ask for `host`, which is in lower case: this one, or another.
  [[nodiscard]] const SslContext& ForHost(std::string_view host) const;
  // Makes a connection that has begun with another context go on with this one. It must be called
  // before the handshake acts on anything. False when there is no memory.
  [[nodiscard]] bool TakeOver(SSL* ssl) const;

 private:
  void SetVersions();
  void SetCiphers();
  void SetGroups();
  void SetOwnCertificate();
  void SetAuthorities();
  void SetSessions();
  void SetAlpn();
  [[nodiscard]] int verify_mode() const;

  TlsDescription& description_;
  SslCtxPtr ssl_ctx_;
  std::map<std::string, const SslContext*, std::less<>> hosts_;
};

}  // namespace iocp
