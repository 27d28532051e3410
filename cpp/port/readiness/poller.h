// The poller of this system: how a readiness port learns which sockets are ready. Chosen by the
// build, so that no call to it is virtual.
//
// A new poller, as for kqueue, is one class with the public members of EpollPoller and one line
// below. The port and its rules stay as they are.
#pragma once

#include "port/readiness/epoll_poller.h"

namespace iocp {

using Poller = EpollPoller;

}  // namespace iocp
