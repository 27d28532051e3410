// Records of TLS 1.3 that a test writes by itself, cut where no library cuts them.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace iocp::testing {

// The secrets of the last handshake with a context that it watches. Only one lives at a time.
class TlsSecrets {
 public:
  TlsSecrets();
  TlsSecrets(const TlsSecrets&) = delete;
  TlsSecrets& operator=(const TlsSecrets&) = delete;
  ~TlsSecrets();

  static void Watch(SSL_CTX* context);
  std::string client;  // that the client's data is encrypted with
  std::string server;

 private:
  static void Note(const SSL* ssl, const char* line);
};

// Goes on behind a side that has sent no record since the handshake. The cipher is
// TLS_AES_256_GCM_SHA384.
class TlsRecordWriter {
 public:
  explicit TlsRecordWriter(std::string_view secret);

  // The next record. `type` is a content type, such as SSL3_RT_HANDSHAKE.
  std::string Record(int type, std::string_view content);

 private:
  std::string key_;
  std::string iv_;
  std::uint64_t number_ = 0;
};

}  // namespace iocp::testing
