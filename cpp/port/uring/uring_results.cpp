// The second half of Wait: what the kernel's completions mean.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "port/common/posix_net.h"
#include "port/uring/uring_link.h"

namespace iocp {
namespace {
// Some kernels take a descriptor's O_NONBLOCK to mean that its operations must not wait for
// readiness; for us they wait in the ring.
void LetOperationsWait(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

// Whether a number that an accept completed with is one.
bool IsSocket(int fd) {
  int type = 0;
  socklen_t length = sizeof(type);
  return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0;
}

}  // namespace

void UringPort::TakeResults(Batch& batch) {
  unsigned taken = 0;
  unsigned head = 0;
  const io_uring_cqe* cqe = nullptr;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    if (!TakeResult(*cqe, batch)) break;
    ++taken;
  }
  io_uring_cq_advance(&ring_, taken);
}

// False when the batch has no room for it: it stays in the completion queue.
bool UringPort::TakeResult(const io_uring_cqe& cqe, Batch& batch) {
  if (batch.full()) return false;
  const bool more = (cqe.flags & IORING_CQE_F_MORE) != 0;
  const std::uint64_t tag = cqe.user_data & kTagMask;
  if (tag == kWakeTag) {
    wake_watched_ = more;
    return true;
  }
  auto& link = *reinterpret_cast<Link*>(cqe.user_data & ~std::uint64_t{kTagMask});
  if (tag == kReceiveTag && !link.listener && cqe.res > 0 &&
      !batch.HasRoomFor(static_cast<std::size_t>(cqe.res))) {
    return false;
  }
  if (!more) --link.answers_due;
  switch (tag) {
    case kReceiveTag:
      if (!more) {
        SetArmed(link, false);
        link.disarming = false;
        if (std::exchange(link.yielding, false)) lists_->starved.Push(link);
        MarkChanged(link);
      }
      if (link.listener) {
        OnAcceptResult(link, cqe, batch);
      } else {
        OnReceiveResult(link, cqe, batch);
      }
      break;
    case kSendTag:
      OnSendResult(link, cqe.res, batch);
      break;
    case kWatchTag:
      OnWatchResult(link, cqe.res, more);
      break;
    default:
      OnCancelResult(link, cqe.res, tag);
      break;
  }
  return true;
}

void UringPort::OnReceiveResult(Link& link, const io_uring_cqe& cqe, Batch& batch) {
  const std::size_t size = cqe.res > 0 ? static_cast<std::size_t>(cqe.res) : 0;
  Buffer buffer;
  if ((cqe.flags & IORING_CQE_F_BUFFER) != 0) buffer = buffers_.Consume(cqe.flags, size);
  if (size > 0) {
    batch.AddReceived(*link.socket, std::move(buffer));
    if ((cqe.flags & IORING_CQE_F_SOCK_NONEMPTY) != 0) {
      if (link.run < kUringLongRun) ++link.run;
    } else if (std::exchange(link.run, 0) == kUringLongRun && link.armed) {
      link.yielding = true;
      MarkChanged(link);
    }
    // Those that are armed could take every buffer that comes free, and the others wait for ever.
    if (link.turns < kUringTurns) ++link.turns;
    if (lists_->starved.empty()) return;
    if (!link.armed) {
      lists_->starved.Push(link);
    } else if (link.turns == kUringTurns) {
      link.yielding = true;
      MarkChanged(link);
    }
  } else if (cqe.res == 0) {
    EndReceive(link, link.broken ? ErrorFromCode(ECONNRESET) : Error{ErrorKind::kEndOfStream, 0},
               batch);
  } else if (cqe.res == -ENOBUFS) {
    ++counters_.starved;
    lists_->starved.Push(link);
  } else if (!TryAgain(link, -cqe.res, link.cancel_receive)) {
    EndReceive(link, ErrorFromCode(-cqe.res), batch);
  }
}

bool UringPort::TryAgain(Link& link, int error_number, bool cancelled) {
  switch (error_number) {
    case EAGAIN:
      LetOperationsWait(DescriptorOf(*link.socket));
      break;
    case EINTR:
      break;
    case ECANCELED:
      // For Pause; whether the operation is wanted again by now is seen when the link is settled.
      if (cancelled) return false;
      break;
    case ENOMEM:
      ++counters_.out_of_memory;
      delayed_until_ = Now() + kUringMemoryRetry;
      lists_->delayed.Push(link);
      return true;
    default:
      return false;
  }
  MarkChanged(link);
  return true;
}

void UringPort::OnAcceptResult(Link& link, const io_uring_cqe& cqe, Batch& batch) {
  if (cqe.res < 0) {
    const int error_number = -cqe.res;
    if (error_number == ECANCELED && link.cancel_receive) {
      EndReceive(link, ErrorFromCode(ECANCELED), batch);
    } else if (IsExhaustion(error_number) || !TryAgain(link, error_number, false)) {
      // Out of memory is for the server to wait for, like out of descriptors.
      OnAcceptError(link, error_number, batch);
    }
    return;
  }
  if (accepts_need_a_look_ && !IsSocket(cqe.res)) {
    ++counters_.invalid_accepts;
    OnAcceptError(link, ECONNABORTED, batch);
    return;
  }
  Completion& completion = batch.Add(Operation::kAccept, link.socket);
  completion.last = false;
  completion.accepted = cqe.res;
}

void UringPort::OnAcceptError(Link& link, int error_number, Batch& batch) {
  Completion& completion = batch.Add(Operation::kAccept, link.socket);
  completion.last = false;
  if (IsOneClientsError(error_number)) {
    completion.error = {ErrorKind::kClientGone, error_number};
    return;
  }
  // Descriptors or memory have run out, or the listener itself is wrong: again at once would fail
  // again at once, so it waits for Resume (R8).
  completion.error = {ErrorKind::kOutOfResources, error_number};
  link.paused = true;
}

void UringPort::OnSendResult(Link& link, int result, Batch& batch) {
  link.TellWhatIsRead();
  --operations_in_flight_;
  link.send_submitted = false;
  link.stopping_send = false;
  if (result >= 0) {
    EndSend(link, {}, static_cast<std::size_t>(result), batch);
  } else if (!TryAgain(link, -result, link.cancel_send)) {
    link.broken = link.broken || result != -ECANCELED;
    EndSend(link, ErrorFromCode(-result), 0, batch);
  }
}

void UringPort::OnWatchResult(Link& link, int result, bool more) {
  if (result >= 0 && (result & POLLERR) != 0 && link.paused)
    link.broken = link.broke_while_paused = true;
  if (!more) {
    --operations_in_flight_;
    link.watched = false;
    link.watch_ended = !std::exchange(link.unwatching, false);
  }
  MarkChanged(link);
}

// A cancellation can miss an operation that the kernel has in its hands at that moment. As long as
// the operation has not come back, it is asked again.
void UringPort::OnCancelResult(Link& link, int result, std::uint64_t tag) {
  if (link.socket == nullptr) {
    ReleaseIfUnused(link);
    return;
  }
  if (result >= 0) return;
  bool& asked = tag == kCancelSendTag    ? link.stopping_send
                : tag == kCancelWatchTag ? link.unwatching
                                         : link.disarming;
  if (!asked) return;
  asked = false;
  ++counters_.missed_cancels;
  MarkChanged(link);
}

void UringPort::SetArmed(Link& link, bool armed) {
  if (link.armed == armed) return;
  link.armed = armed;
  operations_in_flight_ += armed ? std::size_t{1} : ~std::size_t{0};
  if (link.listener) accepting_.store(armed ? 1 : 0, std::memory_order_relaxed);
}

void UringPort::EndReceive(Link& link, Error error, Batch& batch) {
  if (link.listener) {
    batch.Add(Operation::kAccept, link.socket).error = error;
  } else {
    batch.AddReceiveEnd(*link.socket, error);
  }
  link.receiving = false;
  link.cancel_receive = false;
}

void UringPort::EndSend(Link& link, Error error, std::size_t bytes, Batch& batch) {
  link.pieces.Drop(free_gathers_);
  batch.AddSent(*link.socket, error, bytes);
  link.sending = false;
  link.cancel_send = false;
}

}  // namespace iocp
