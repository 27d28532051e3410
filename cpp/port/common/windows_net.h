// Sockets as the Windows port needs them, beyond net.h.
#pragma once

#include "port/common/net.h"
// after winsock2.h
#include <mswsock.h>

namespace iocp {

// TCP_NODELAY and keep-alive, which an accepted socket does not inherit on Windows.
Error ConfigureWindows(NativeSocket handle, bool no_delay,
                       const std::optional<KeepAlive>& keepalive);

}  // namespace iocp
