// The certificates of the authorities that this system trusts.
#pragma once

#include "stage/tls/openssl.h"

namespace iocp {

// Those for a server that a client connects to. Throws TlsError and std::bad_alloc.
X509StorePtr SystemAuthorities();

#ifdef _WIN32
// Those of an open store of Windows, an HCERTSTORE, that may identify servers.
X509StorePtr AuthoritiesOf(void* system_store);
#endif

}  // namespace iocp
