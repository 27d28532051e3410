#include "support/tls_records.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <cstddef>
#include <stdexcept>

namespace iocp::testing {
namespace {

TlsSecrets* current = nullptr;

void Must(bool done) {
  if (!done) throw std::runtime_error("OpenSSL makes no record");
}

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

// HKDF-Expand-Label of RFC 8446 without a context.
std::string Expand(std::string_view secret, std::string label, std::size_t size) {
  EVP_KDF* const kdf = EVP_KDF_fetch(nullptr, "TLS13-KDF", nullptr);
  EVP_KDF_CTX* const context = EVP_KDF_CTX_new(kdf);
  std::string key(secret);
  std::string prefix = "tls13 ";
  char digest[] = "SHA384";
  int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key.data(), key.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, prefix.data(), prefix.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, label.data(), label.size()),
      OSSL_PARAM_construct_end()};
  std::string out(size, '\0');
  const int result =
      EVP_KDF_derive(context, reinterpret_cast<unsigned char*>(out.data()), size, parameters);
  EVP_KDF_CTX_free(context);
  EVP_KDF_free(kdf);
  Must(result == 1);
  return out;
}

}  // namespace

TlsSecrets::TlsSecrets() { current = this; }
TlsSecrets::~TlsSecrets() { current = nullptr; }

void TlsSecrets::Watch(SSL_CTX* context) { SSL_CTX_set_keylog_callback(context, &Note); }

// "LABEL random secret"
void TlsSecrets::Note(const SSL*, const char* line) {
  const std::string_view text(line);
  const std::string secret = FromHex(text.substr(text.rfind(' ') + 1));
  if (current == nullptr) return;
  if (text.starts_with("CLIENT_TRAFFIC_SECRET_0 ")) current->client = secret;
  if (text.starts_with("SERVER_TRAFFIC_SECRET_0 ")) current->server = secret;
}

TlsRecordWriter::TlsRecordWriter(std::string_view secret)
    : key_(Expand(secret, "key", 32)), iv_(Expand(secret, "iv", 12)) {}

std::string TlsRecordWriter::Record(int type, std::string_view content) {
  constexpr std::size_t kTag = 16;
  std::string inner(content);
  inner += static_cast<char>(type);
  const std::size_t size = inner.size() + kTag;
  std::string record("\x17\x03\x03", 3);
  record += static_cast<char>(size >> 8U);
  record += static_cast<char>(size & 0xffU);
  std::string nonce = iv_;
  for (unsigned i = 0; i < 8; ++i) {
    nonce[11 - i] = static_cast<char>(nonce[11 - i] ^ static_cast<char>(number_ >> (8U * i)));
  }
  ++number_;
  const auto bytes = [](std::string& text) {
    return reinterpret_cast<unsigned char*>(text.data());
  };
  std::string sealed(size, '\0');
  int written = 0;
  EVP_CIPHER_CTX* const cipher = EVP_CIPHER_CTX_new();
  const bool done =
      EVP_EncryptInit_ex(cipher, EVP_aes_256_gcm(), nullptr, bytes(key_), bytes(nonce)) == 1 &&
      EVP_EncryptUpdate(cipher, nullptr, &written, bytes(record), 5) == 1 &&
      EVP_EncryptUpdate(cipher, bytes(sealed), &written, bytes(inner),
                        static_cast<int>(inner.size())) == 1 &&
      EVP_EncryptFinal_ex(cipher, nullptr, &written) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, kTag, bytes(sealed) + inner.size()) == 1;
  EVP_CIPHER_CTX_free(cipher);
  Must(done);
  return record + sealed;
}

}  // namespace iocp::testing
