// Sockets as the ports of Linux need them, beyond net.h.
#pragma once

#include "port/common/net.h"

namespace iocp {

// Closes a socket in order. The peer has `timeout` to acknowledge what the system still holds.
void CloseInOrderPosix(NativeSocket handle, Duration timeout);

// poll(2) for one socket, without waiting: which of `events`, and which errors, are there now.
int ReadyPosix(NativeSocket handle, int events);
// Takes the error that broke the connection off the socket; a reset when the system names none.
Error TakeErrorPosix(NativeSocket handle);
// Bytes that the system has and the peer has not acknowledged. `send_shut`: true exactly when our
// stream has ended, which the system counts as a byte.
std::size_t UnacknowledgedPosix(NativeSocket handle, bool send_shut);

// Resets a connection whose descriptor stays open: from now on there is nothing to receive on it,
// and nobody to send to.
void DisconnectPosix(NativeSocket handle);

// True exactly for the errors of accept(2) that concern one client and leave the listener as it is
// (R8).
bool IsOneClientsError(int error_number);

// True exactly when descriptors or memory have run out, so that trying again at once would only
// fail again.
bool IsExhaustion(int error_number);

}  // namespace iocp
