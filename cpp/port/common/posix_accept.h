// How the Linux ports accept: once the system has said that somebody waits, without blocking.
//
// Where several ports accept on one handle, the system tells each of them of every client, and the
// first to ask gets it. The system could choose one port to tell (EPOLLEXCLUSIVE; an accept in
// io_uring does so unasked), but then the client waits for that one, whose worker may be in a hook
// for long, although others are free.
#pragma once

#include <cstdint>

#include "port/completion_port.h"

namespace iocp {

// kNone when `listener` listens.
Error CheckListensPosix(NativeSocket listener);

enum class AcceptStep : std::uint8_t {
  kNobody,   // nobody waits
  kOne,      // the completion is of one client, who came or has gone
  kTrouble,  // the completion says what has run out: accepting pauses
  kFull,     // the gate has no room: accepting pauses, and there is no completion
};
// Takes one client from the system. `gate` may be null.
AcceptStep AcceptPosix(Socket& listener, AcceptGate* gate, Completion* completion);

}  // namespace iocp
