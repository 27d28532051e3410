#include "stage/tls/client_hello.h"

#include <cstddef>
#include <new>
#include <string>
#include <string_view>

#include "stage/tls/ssl_context.h"

namespace iocp {
namespace {

constexpr std::size_t kMostHostName = 255;

// The host name in lower case; "": there is none, or none that is well formed. OpenSSL looks at it
// again, and refuses what is not.
std::string AskedHost(SSL* ssl) {
  const unsigned char* data = nullptr;
  std::size_t size = 0;
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &data, &size) != 1) return {};
  // The length of the list, the kind of the first name, its length, the name.
  constexpr std::size_t kHead = 5;
  if (size < kHead || data[2] != TLSEXT_NAMETYPE_host_name) return {};
  const std::size_t length = std::size_t{data[3]} << 8U | data[4];
  if (length > kMostHostName || length > size - kHead) return {};
  std::string host(reinterpret_cast<const char*>(data) + kHead, length);
  for (char& c : host) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  if (host.ends_with('.')) host.pop_back();
  return host;
}

}  // namespace

int OnClientHello(SSL* ssl, int* alert, void*) {
  try {
    const SslContext& context = SslContext::Of(SSL_get_SSL_CTX(ssl));
    const SslContext& other = context.ForHost(AskedHost(ssl));
    if (&other == &context || other.TakeOver(ssl)) return SSL_CLIENT_HELLO_SUCCESS;
  } catch (const std::bad_alloc&) {
    ERR_raise(ERR_LIB_SSL, ERR_R_MALLOC_FAILURE);
  }
  *alert = SSL_AD_INTERNAL_ERROR;
  return SSL_CLIENT_HELLO_ERROR;
}

}  // namespace iocp
