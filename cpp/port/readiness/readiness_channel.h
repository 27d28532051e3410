// The readiness port's record of one socket.
#pragma once

#include <cstddef>
#include <cstdint>

#include "port/common/gather.h"
#include "port/completion_port.h"

namespace iocp {

// It lives from Adopt to Close; the channel of a listener from Accept on. Results are noted here,
// so no call needs memory to end an operation, however many operations end at once.
struct ReadinessChannel {
  Socket* socket = nullptr;
  ReadinessChannel* next_open = nullptr;  // in the list of all
  ReadinessChannel** previous_open = nullptr;
  ReadinessChannel* next = nullptr;  // in the queue of those with results
  std::uint8_t results = 0;          // in that queue exactly when not 0
  Error receive_error;               // of the receive, or the accept, that has ended
  Error send_error;      // of the send that has ended; of an accept that failed, for a listener
  std::size_t sent = 0;  // of the send that has ended
  int now_error = 0;     // that SendNow met, for the next Send to report; 0: none
  bool counted = false;  // true exactly when it is in ReadinessPort::accepting_
  KeptPieces pieces;     // of a send that waits until the socket can be written

  void Join(ReadinessChannel** first) {
    next_open = *first;
    previous_open = first;
    if (next_open != nullptr) next_open->previous_open = &next_open;
    *first = this;
  }
  void Leave() {
    *previous_open = next_open;
    if (next_open != nullptr) next_open->previous_open = previous_open;
  }
};

}  // namespace iocp
