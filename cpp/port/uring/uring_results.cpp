// The second half of Wait: what the kernel's completions mean.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "port/common/posix_accept.h"
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
  if (tag == kReceiveTag && !link.listener && cqe.res > 0 && batch.bytes > 0 &&
      batch.bytes + static_cast<std::size_t>(cqe.res) > batch.max_bytes) {
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
    Completion& completion = batch.Add(Operation::kReceive, link.socket);
    completion.last = false;
    completion.sequence = link.socket->next_sequence++;
    completion.buffer = std::move(buffer);
    batch.bytes += size;
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
    EndReceive(link, link.broken ? ErrorFromErrno(ECONNRESET) : Error{ErrorKind::kEndOfStream, 0},
               batch);
  } else if (cqe.res == -ENOBUFS) {
    ++counters_.starved;
    lists_->starved.Push(link);
  } else if (!TryAgain(link, -cqe.res, link.cancel_receive)) {
    EndReceive(link, ErrorFromErrno(-cqe.res), batch);
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
  if (cqe.res == -ECANCELED && link.cancel_receive) {
    EndReceive(link, ErrorFromErrno(ECANCELED), batch);
  } else if (cqe.res >= 0) {
    if (!link.paused && !link.cancel_receive) AcceptSome(link, batch);
  } else if (IsExhaustion(-cqe.res) || !TryAgain(link, -cqe.res, false)) {
    // For the server to wait for, as when there is no descriptor (R8).
    Completion& completion = batch.Add(Operation::kAccept, link.socket);
    completion.last = false;
    completion.error = {ErrorKind::kOutOfResources, -cqe.res};
    Pause(*link.socket);
  }
}

void UringPort::AcceptSome(Link& link, Batch& batch) {
  for (int i = 0; i < options_.max_accepts && !batch.full(); ++i) {
    const AcceptStep step =
        AcceptPosix(*link.socket, options_.gate, &batch.completions[batch.count]);
    if (step == AcceptStep::kOne || step == AcceptStep::kTrouble) ++batch.count;
    if (step == AcceptStep::kTrouble || step == AcceptStep::kFull) Pause(*link.socket);
    if (step != AcceptStep::kOne) return;
  }
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
    EndSend(link, ErrorFromErrno(-result), 0, batch);
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
}

void UringPort::EndReceive(Link& link, Error error, Batch& batch) {
  const Operation operation = link.listener ? Operation::kAccept : Operation::kReceive;
  Completion& completion = batch.Add(operation, link.socket);
  completion.error = error;
  if (!link.listener) completion.sequence = link.socket->next_sequence++;
  link.receiving = false;
  link.cancel_receive = false;
  CountAccepting(link);
}

void UringPort::EndSend(Link& link, Error error, std::size_t bytes, Batch& batch) {
  if (link.gather != nullptr) {
    link.gather->next = std::exchange(free_gathers_, link.gather);
    link.gather = nullptr;
  }
  Completion& completion = batch.Add(Operation::kSend, link.socket);
  completion.error = error;
  completion.bytes = bytes;
  link.sending = false;
  link.cancel_send = false;
}

}  // namespace iocp
