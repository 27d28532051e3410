// Inside of UringPort: what it remembers. For uring_port.cpp and uring_results.cpp only.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "port/common/kernel_access.h"
#include "port/uring/uring_port.h"

namespace iocp {

// What a completion is about: the low bits of its user_data; the rest is the address of a Link.
enum UringTag : std::uint64_t {
  kReceiveTag,  // a receive, or a look at a listener
  kSendTag,
  kCancelReceiveTag,
  kCancelSendTag,
  kWakeTag,  // without a link
  kWatchTag,
  kCancelWatchTag,
  kTagMask = 7,
};

// How long to wait before the kernel is asked again for what it had no memory for.
inline constexpr auto kUringMemoryRetry = std::chrono::milliseconds(10);

// A receive that goes on may take this many buffers before it makes room for those that found none:
// enough that taking turns costs little, few enough that nobody waits long.
inline constexpr unsigned char kUringTurns = 8;

// A multishot receive that emptied the socket waits for the next event. After 32 receives in a row
// the kernel (6.18) takes it up again from where no event is pending: a reset that came before the
// last of the data was read would never be seen. So after a run of this many it is armed anew,
// which looks.
inline constexpr unsigned char kUringLongRun = 16;

inline int DescriptorOf(const Socket& socket) { return static_cast<int>(socket.handle); }

// First in, first out, through the objects themselves; an object is in it at most once.
template <class T, T* T::* kNext, bool T::* kListed>
class UringFifo {
 public:
  void Push(T& item) {
    if (item.*kListed) return;
    item.*kListed = true;
    item.*kNext = nullptr;
    if (first_ == nullptr) {
      first_ = &item;
    } else {
      last_->*kNext = &item;
    }
    last_ = &item;
  }
  T& Pop() {
    T& item = *first_;
    first_ = item.*kNext;
    item.*kListed = false;
    return item;
  }
  [[nodiscard]] T& front() const { return *first_; }
  [[nodiscard]] bool empty() const { return first_ == nullptr; }

 private:
  T* first_ = nullptr;
  T* last_ = nullptr;
};

// The pieces of a gathered send, which the kernel may look at until it has ended.
struct UringPort::Gather {
  Gather* next = nullptr;
  msghdr message{};
  iovec pieces[kMaxPieces];
};

// What the port knows of a socket. Completions name the link, not the socket: the answer to a
// cancellation may come when the socket is long closed and freed, and the link stays until then.
struct UringPort::Link {
  Socket* socket = nullptr;  // null exactly when closed
  unsigned answers_due = 0;  // submissions whose last completion has not been seen

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
  bool watch_ended = false;  // true exactly when a watch has ended by itself since the last Pause
  // True exactly when the watch saw the connection break, and nobody has resumed since.
  bool broke_while_paused = false;

  // True exactly when it is to end and to be armed anew, behind the receives that found no buffer.
  bool yielding = false;
  unsigned char turns = 0;  // receives since it was armed, up to kUringTurns
  unsigned char run = 0;    // receives in a row that left data behind, up to kUringLongRun

  bool sending = false;         // true exactly when Send has not ended
  bool cancel_send = false;     // true exactly when Cancel has to end what is sending
  bool send_submitted = false;  // true exactly when the kernel has the send
  // True exactly when the kernel was asked to end it, and did not refuse.
  bool stopping_send = false;
  // True exactly when a send, or the watch, found the connection broken. That took the error off
  // the socket, so that a receive would see an end of stream where there was none (R7).
  bool broken = false;
  bool send_shut = false;  // true exactly when ShutdownSend was called
  // Which Wait (UringPort::waits_) was the last to leave a completion of the receive, and of the
  // send, untaken.
  std::uint64_t receive_left_by = 0;
  std::uint64_t send_left_by = 0;
  Gather* gather = nullptr;  // of a send with several pieces
  iovec piece{};             // of a send with one

  // At the beginning and at the end of a send: in between the kernel may look at any time.
  void TellWhatIsRead() const {
    if (gather == nullptr) {
      KernelReads(piece.iov_base, piece.iov_len);
      return;
    }
    for (std::size_t i = 0; i < gather->message.msg_iovlen; ++i) {
      KernelReads(gather->pieces[i].iov_base, gather->pieces[i].iov_len);
    }
  }

  bool changed = false;  // true exactly when in Lists::changed
  bool starved = false;  // true exactly when in Lists::starved: not to be armed
  bool delayed = false;  // true exactly when in Lists::delayed: nothing to be submitted
  Link* next_changed = nullptr;
  Link* next_starved = nullptr;
  Link* next_delayed = nullptr;
  Link* next_free = nullptr;
  Link* next_in_all = nullptr;
};

struct UringPort::Lists {
  UringFifo<Link, &Link::next_changed, &Link::changed> changed;  // to be settled
  UringFifo<Link, &Link::next_starved, &Link::starved> starved;  // found no buffer
  UringFifo<Link, &Link::next_delayed, &Link::delayed> delayed;  // the kernel had no memory
};

// What one Wait hands out.
struct UringPort::Batch {
  Completion* completions;
  std::size_t capacity;
  std::size_t max_bytes;
  std::size_t count = 0;
  std::size_t bytes = 0;

  [[nodiscard]] bool full() const { return count == capacity; }
  // An empty completion of the caller's, to be filled in.
  Completion& Add(Operation operation, Socket* socket) {
    Completion& completion = completions[count++];
    completion = Completion{};
    completion.operation = operation;
    completion.socket = socket;
    return completion;
  }
};

}  // namespace iocp
