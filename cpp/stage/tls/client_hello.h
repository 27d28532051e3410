// A look at a client's first message before the handshake acts on it.
#pragma once

#include "stage/tls/openssl.h"

namespace iocp {

// Chooses the context for the host name that the client asks for: before a session is resumed, so
// that the one of another host is not.
int OnClientHello(SSL* ssl, int* alert, void* unused);

}  // namespace iocp
