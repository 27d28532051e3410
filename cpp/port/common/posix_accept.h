// How the Linux ports accept: once the system has said that somebody waits, without blocking.
//
// Where several ports accept on one handle, the system notifies each of them of every client, and
// the first to ask gets it. The system could choose one port to notify (EPOLLEXCLUSIVE; an accept
// in io_uring does so unasked), but then the client waits for that one, whose worker may be in a
// hook for long, although others are free.
#pragma once

#include "port/common/batch.h"
#include "port/completion_port.h"

namespace iocp {

// kNone when `listener` listens.
Error CheckListens(NativeSocket listener);

// Takes clients from the system, `most` at most, while the batch has room. False when accepting has
// to pause: the gate, which may be null, has no room, or something has run out, as the last
// completion says.
bool AcceptSome(Socket& listener, AcceptGate* gate, int most, Batch& batch);

}  // namespace iocp
