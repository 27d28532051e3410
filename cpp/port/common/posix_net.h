// What the Linux ports share: listening, addresses, errors and closing, in terms of POSIX sockets.
#pragma once

#include <sys/socket.h>

#include "port/completion_port.h"

namespace iocp {

// The one table from errno to ErrorKind. `error_number` is positive.
Error ErrorFromErrno(int error_number);

// PortKind::listen and PortKind::close_listener. The listener is non-blocking and close-on-exec;
// TCP_NODELAY and keep-alive are set on it, and Linux lets accepted sockets inherit them.
Status ListenPosix(const ListenOptions& options, NativeSocket* listener, Address* bound);
void CloseListenerPosix(NativeSocket listener);

// What the system told. Of no family where it told less than an address of that family has, or of a
// family that is not ours.
Address AddressFromPosix(const sockaddr* from, socklen_t length);

// The two ends of a connected socket. `listening` is where it was accepted: unless that is a
// wildcard, the system need not be asked for the local end. The addresses are untouched on an
// error.
Error EndpointsPosix(NativeSocket handle, const Address& listening, Address* local,
                     Address* remote);

// Closes a descriptor; with `reset` it sends a reset first and drops what is queued.
void ClosePosix(NativeSocket handle, bool reset);
// Closes it in order. What the peer has not acknowledged by then it gets `timeout` for.
void CloseInOrderPosix(NativeSocket handle, Duration timeout);

// poll(2) for one descriptor and without waiting: what of `events`, or of errors, is there now.
int ReadyPosix(NativeSocket handle, int events);
// What broke the connection, taken off the socket; a reset when nothing else is known.
Error TakeErrorPosix(NativeSocket handle);
// Bytes that the system has and the peer has not acknowledged. `send_shut`: whether our stream has
// ended, which the system counts as a byte.
std::size_t UnacknowledgedPosix(NativeSocket handle, bool send_shut);

// Resets a connection, whose descriptor stays open: there is nothing to receive on it any more, and
// nobody to send to.
void DisconnectPosix(NativeSocket handle);

// For a port that the system no longer lets wait in its own way: until somebody writes to the
// eventfd, or for so long.
void SleepUntilWritten(int event_fd, int milliseconds);

// Errors of accept(2) that are of one client and leave the listener as it is (R8).
bool IsOneClientsError(int error_number);

// True exactly when descriptors or memory have run out, so that trying
// again at once would only fail again.
bool IsExhaustion(int error_number);

}  // namespace iocp
