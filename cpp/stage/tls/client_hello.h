// A look at a client's first message before the handshake acts on it.
#pragma once

#include <optional>
#include <string>

#include "stage/tls/openssl.h"
#include "stage/tls/ssl_context.h"

namespace iocp {

// The part of the client's first message that is kept. It is the application data of a server's SSL
// object.
struct ClientHello {
  const SslContext& context;        // the one that the connection has begun with
  std::optional<std::string> host;  // that was asked for; "": none; null before the message
};

// Chooses the context for the host name that the client asks for. It does so before a session is
// resumed, so that no session of another host is. A client of which the server wants another key
// sends its message again, and must ask for the same name: the choice is made once.
int OnClientHello(SSL* ssl, int* alert, void* unused);

}  // namespace iocp
