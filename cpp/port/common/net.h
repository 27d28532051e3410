// Internet sockets, as every port needs them: listening, addresses, errors and closing.
#pragma once

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
// after winsock2.h
#include <ws2tcpip.h>
#else
#include <sys/socket.h>
#endif

#include "port/completion_port.h"

namespace iocp {

// The error that a code of the system stands for: errno, or a code of Winsock or Windows. `code` is
// not negative; 0 is no error.
Error ErrorFromCode(int code);

// PortKind::listen and PortKind::close_listener. Child processes do not inherit the listener.
Status Listen(const ListenOptions& options, NativeSocket* listener, Address* bound);
void CloseListener(NativeSocket listener);

// The address that the system gave. It has no family where the system gave fewer bytes than such an
// address has, or a family other than IPv4 and IPv6.
Address AddressFrom(const sockaddr* from, socklen_t length);

// The two addresses of a connected socket. `listening` is where it was accepted: unless that is a
// wildcard or unknown, the system need not be asked for the local one. On an error both are
// untouched.
Error ReadEndpoints(NativeSocket handle, const Address& listening, Address* local, Address* remote);

// Closes a socket; with `reset` the peer gets a reset, and what is queued is dropped.
void CloseSocket(NativeSocket handle, bool reset);

}  // namespace iocp
