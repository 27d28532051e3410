// The pieces of a send that is still under way when the call that began it has returned. For the
// ports on POSIX systems.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <new>
#include <utility>

#include "stream/piece.h"

namespace iocp {

static_assert(sizeof(Piece) == sizeof(iovec) && offsetof(Piece, size) == offsetof(iovec, iov_len));

// `pieces` as one message of the system's. The system only reads it.
inline msghdr MessageOf(const Piece* pieces, std::size_t count) {
  msghdr message{};
  message.msg_iov = reinterpret_cast<iovec*>(const_cast<Piece*>(pieces));
  message.msg_iovlen = count;
  return message;
}

// Writes what a non-blocking write takes. The answer is that of sendmsg, never EINTR.
inline ssize_t SendPieces(int descriptor, const Piece* pieces, std::size_t count) {
  constexpr int kFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
  ssize_t sent = 0;
  do {
    if (count == 1) {
      sent = ::send(descriptor, pieces->data, pieces->size, kFlags);
    } else {
      const msghdr message = MessageOf(pieces, count);
      sent = ::sendmsg(descriptor, &message, kFlags);
    }
  } while (sent < 0 && errno == EINTR);
  return sent;
}

// The answer of SendPieces in terms of CompletionPort::SendNow. A fatal error goes to
// `error_number`, as the socket reports it only once.
inline std::size_t TakenBySendNow(ssize_t sent, int* error_number) {
  if (sent >= 0) return static_cast<std::size_t>(sent);
  const bool passes =
      errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM;
  if (!passes) *error_number = errno;
  return 0;
}

// Several pieces. The system may read all of this until the send has ended.
struct Gather {
  Gather* next = nullptr;  // in the list of those that are free
  msghdr message{};
  Piece pieces[kMaxPieces];
};

// The gathers that no send uses. Most sockets never need one, and those that do need it for a
// moment, so the sockets of a port share them.
class FreeGathers {
 public:
  FreeGathers() = default;
  FreeGathers(const FreeGathers&) = delete;
  FreeGathers& operator=(const FreeGathers&) = delete;
  ~FreeGathers() {
    while (first_ != nullptr) delete std::exchange(first_, first_->next);
  }

  // Null when there is no memory.
  Gather* Take() {
    if (first_ == nullptr) return new (std::nothrow) Gather;
    return std::exchange(first_, first_->next);
  }
  void GiveBack(Gather& gather) { gather.next = std::exchange(first_, &gather); }

 private:
  Gather* first_ = nullptr;
};

// The pieces of one send, from Keep to Drop. A single piece needs no gather.
struct KeptPieces {
  Piece piece{};             // all that is kept, without a gather
  Gather* gather = nullptr;  // what is kept, where it is more than one piece

  void Keep(const Piece* pieces, std::size_t count, FreeGathers& free) {
    if (count > 1) gather = free.Take();
    if (gather == nullptr) {
      // Without memory for the rest of them, the first piece is a short send.
      piece = *pieces;
      return;
    }
    std::copy_n(pieces, count, gather->pieces);
    gather->message = MessageOf(gather->pieces, count);
  }
  void Drop(FreeGathers& free) {
    if (gather != nullptr) free.GiveBack(*std::exchange(gather, nullptr));
  }

  [[nodiscard]] const Piece* first() const { return gather != nullptr ? gather->pieces : &piece; }
  [[nodiscard]] std::size_t count() const {
    return gather != nullptr ? static_cast<std::size_t>(gather->message.msg_iovlen) : 1;
  }
};

}  // namespace iocp
