// What the Windows port needs of Winsock beside the completion port: listening, addresses, errors
// and closing.
#pragma once

#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
// after winsock2.h
#include <mswsock.h>
#include <ws2tcpip.h>

#include "port/completion_port.h"

namespace iocp {

// Makes Winsock usable for the rest of the process's life. The error of WSAStartup, or none. Any
// thread, any number of times.
Error OpenWinsock();

// The one table from Winsock's and the system's codes to ErrorKind. `code` 0 is no error.
Error ErrorFromWindows(int code);

// PortKind::listen and PortKind::close_listener. No other program can take the port
// (SO_EXCLUSIVEADDRUSE), and child processes do not inherit the socket.
Status ListenWindows(const ListenOptions& options, NativeSocket* listener, Address* bound);
void CloseListenerWindows(NativeSocket listener);

// TCP_NODELAY and keep-alive, which Windows lets an accepted socket not inherit.
Error ConfigureWindows(SOCKET handle, bool no_delay, const std::optional<KeepAlive>& keepalive);

// What the system told. Of no family where it told less than an address of that family has, or of a
// family that is not ours.
Address AddressFromWindows(const sockaddr* address, int length);

// Closes a socket; with `reset` it sends a reset first and drops what is queued.
void CloseWindows(NativeSocket handle, bool reset);

}  // namespace iocp
