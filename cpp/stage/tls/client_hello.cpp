#include "stage/tls/client_hello.h"

#include <cstddef>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "stage/tls/host_name.h"

namespace iocp {
namespace {

// The host name; "": there is none, or it is malformed. OpenSSL looks at it again, and refuses a
// malformed one.
std::string AskedHost(SSL* ssl) {
  const unsigned char* data = nullptr;
  std::size_t size = 0;
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &data, &size) != 1) return {};
  // The length of the list, the kind of the first name, its length, the name.
  constexpr std::size_t kHead = 5;
  if (size < kHead || data[2] != TLSEXT_NAMETYPE_host_name) return {};
  const std::size_t length = std::size_t{data[3]} << 8U | data[4];
  if (length > kMostHostName || length > size - kHead) return {};
  return NormalHostName({reinterpret_cast<const char*>(data) + kHead, length});
}

}  // namespace

int OnClientHello(SSL* ssl, int* alert, void*) {
  try {
    auto& hello = *static_cast<ClientHello*>(SSL_get_app_data(ssl));
    std::string host = AskedHost(ssl);
    if (hello.host) {
      if (*hello.host == host) return SSL_CLIENT_HELLO_SUCCESS;
      ERR_raise(ERR_LIB_SSL, SSL_R_BAD_EXTENSION);
      *alert = SSL_AD_ILLEGAL_PARAMETER;
      return SSL_CLIENT_HELLO_ERROR;
    }
    hello.host = std::move(host);
    const SslContext& other = hello.context.ForHost(*hello.host);
    if (&other == &hello.context || other.TakeOver(ssl)) return SSL_CLIENT_HELLO_SUCCESS;
  } catch (const std::bad_alloc&) {
    ERR_raise(ERR_LIB_SSL, ERR_R_MALLOC_FAILURE);
  }
  *alert = SSL_AD_INTERNAL_ERROR;
  return SSL_CLIENT_HELLO_ERROR;
}

}  // namespace iocp
