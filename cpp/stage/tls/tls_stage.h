// The stage of TLS, for those who do not know of OpenSSL.
#pragma once

#include <cstddef>
#include <memory>

#include "iocp/time.h"
#include "iocp/tls.h"
#include "stage/stage.h"

namespace iocp {

// Makes what the stages of the first `shards` shards need, so that later nothing but memory can be
// missing. Any thread. Throws TlsError and std::bad_alloc.
void PrepareTls(const Tls& tls, std::size_t shards);

// One side of one connection, on the shard with that index. `tls` is not none. Any thread. Throws
// TlsError, unless PrepareTls was called, and std::bad_alloc.
std::unique_ptr<Stage> MakeTlsStage(const Tls& tls, std::size_t shard);

// False exactly for a client that is to check the server's certificate and has no name to check it
// with.
bool KnowsWhomToTrust(const Tls& tls);

// How long a handshake may take.
Duration HandshakeTimeout(const Tls& tls);

}  // namespace iocp
