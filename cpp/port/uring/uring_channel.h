// The io_uring port's record of one socket. Only the port itself includes this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/fifo.h"
#include "port/common/gather.h"
#include "port/common/kernel_access.h"
#include "port/uring/uring_port.h"

namespace iocp {

// The subject of a completion: the low bits of its user_data. The rest is the address of a channel.
enum UringTag : std::uint64_t {
  kReceiveTag,  // a receive, or a look at a listener
  kSendTag,
  kCancelReceiveTag,
  kCancelSendTag,
  kWakeTag,  // without a channel
  kWatchTag,
  kCancelWatchTag,
  kTagMask = 7,
};

// How long to wait before an operation that the kernel had no memory for is tried again.
inline constexpr auto kUringMemoryRetry = std::chrono::milliseconds(10);

// A receive that goes on may take this many buffers before it makes room for the receives that
// found none. Taking turns then costs little, and nobody waits long.
inline constexpr unsigned char kUringTurns = 8;

// A multishot receive that has emptied the socket waits for the next event. After 32 receives in a
// row the kernel (6.18) resumes it where no event is pending, and it would never see a reset that
// came before the last of the data was read. So after a run of this many the receive is armed anew,
// which makes the kernel look.
inline constexpr unsigned char kUringLongRun = 16;

inline int DescriptorOf(const Socket& socket) { return static_cast<int>(socket.handle); }

// Completions name the channel, not the socket: the answer to a cancellation may come long after
// the socket was closed and freed. The channel stays until then.
struct UringPort::Channel {
  Socket* socket = nullptr;  // null exactly when closed
  unsigned answers_due = 0;  // submissions whose last completion has not come

  bool listener = false;        // true exactly when it accepts instead of receiving
  bool counted = false;         // true exactly when it is in UringPort::accepting_
  bool receiving = false;       // true exactly when Accept or Receive has not ended
  bool paused = false;          // true exactly from Pause, or an exhaustion, to Resume
  bool cancel_receive = false;  // true exactly when Cancel has to end what is receiving
  bool armed = false;           // true exactly when the kernel has the receive or the look
  // True exactly when the kernel was asked to end it, and did not refuse.
  bool disarming = false;

  bool watched = false;  // true exactly when the kernel has the watch of a paused receive
  // True exactly when the kernel was asked to end that, and did not refuse.
  bool unwatching = false;
  bool watch_ended = false;  // true exactly when a watch ended by itself since the last Pause
  // True exactly when the watch saw the connection break, and nobody has resumed since.
  bool broke_while_paused = false;

  // True exactly when the receive is to end and to be armed anew, after those that found no buffer.
  bool yielding = false;
  unsigned char turns = 0;  // receives since it was armed, up to kUringTurns
  unsigned char run = 0;    // receives in a row that left data behind, up to kUringLongRun

  bool sending = false;         // true exactly when Send has not ended
  bool cancel_send = false;     // true exactly when Cancel has to end what is sending
  bool send_submitted = false;  // true exactly when the kernel has the send
  // True exactly when the kernel was asked to end it, and did not refuse.
  bool stopping_send = false;
  // True exactly when a send, or the watch, found the connection broken. The error is then no
  // longer on the socket, and a receive would see an end of stream where there was none (R7).
  bool broken = false;
  bool send_shut = false;  // true exactly when ShutdownSend was called
  int now_error = 0;       // that SendNow met, for the next Send to report; 0: none
  // The last Wait (UringPort::waits_) that left a completion of the receive, or of the send, in the
  // ring.
  std::uint64_t receive_left_by = 0;
  std::uint64_t send_left_by = 0;
  KeptPieces pieces;  // of the send

  // Called at the beginning and at the end of a send: in between the kernel may read at any time.
  void ReportReads() const {
    for (std::size_t i = 0; i < pieces.count(); ++i) {
      KernelReads(pieces.first()[i].data, pieces.first()[i].size);
    }
  }

  bool changed = false;  // true exactly when in Lists::changed
  bool starved = false;  // true exactly when in Lists::starved: not to be armed
  bool delayed = false;  // true exactly when in Lists::delayed: nothing to be submitted
  Channel* next_changed = nullptr;
  Channel* next_starved = nullptr;
  Channel* next_delayed = nullptr;
  Channel* next_free = nullptr;
  Channel* next_in_all = nullptr;
};

struct UringPort::Lists {
  Fifo<Channel, &Channel::next_changed, &Channel::changed> changed;  // to be settled
  Fifo<Channel, &Channel::next_starved, &Channel::starved> starved;  // found no buffer
  Fifo<Channel, &Channel::next_delayed, &Channel::delayed> delayed;  // the kernel had no memory
};

}  // namespace iocp
