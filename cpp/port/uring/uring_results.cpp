// The second half of UringPort::Wait: it turns the kernel's results into completions.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "port/common/posix_accept.h"
#include "port/common/posix_net.h"
#include "port/uring/uring_channel.h"

namespace iocp {
namespace {
// Some kernels let operations on a descriptor with O_NONBLOCK fail instead of waiting in the ring.
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

// False when the batch has no room for the result, which then stays in the completion queue.
bool UringPort::TakeResult(const io_uring_cqe& cqe, Batch& batch) {
  if (batch.full()) return false;
  const bool more = (cqe.flags & IORING_CQE_F_MORE) != 0;
  const std::uint64_t tag = cqe.user_data & kTagMask;
  if (tag == kWakeTag) {
    wake_watched_ = more;
    return true;
  }
  auto& channel = *reinterpret_cast<Channel*>(cqe.user_data & ~std::uint64_t{kTagMask});
  if (tag == kReceiveTag && !channel.listener && cqe.res > 0 &&
      !batch.HasRoomFor(static_cast<std::size_t>(cqe.res))) {
    return false;
  }
  if (!more) --channel.answers_due;
  switch (tag) {
    case kReceiveTag:
      if (!more) {
        SetArmed(channel, false);
        channel.disarming = false;
        if (std::exchange(channel.yielding, false)) lists_->starved.Push(channel);
        MarkChanged(channel);
      }
      if (channel.listener) {
        OnAcceptResult(channel, cqe, batch);
      } else {
        OnReceiveResult(channel, cqe, batch);
      }
      break;
    case kSendTag:
      OnSendResult(channel, cqe.res, batch);
      break;
    case kWatchTag:
      OnWatchResult(channel, cqe.res, more);
      break;
    default:
      OnCancelResult(channel, cqe.res, tag);
      break;
  }
  return true;
}

void UringPort::OnReceiveResult(Channel& channel, const io_uring_cqe& cqe, Batch& batch) {
  const std::size_t size = cqe.res > 0 ? static_cast<std::size_t>(cqe.res) : 0;
  Buffer buffer;
  if ((cqe.flags & IORING_CQE_F_BUFFER) != 0) buffer = buffers_.Consume(cqe.flags, size);
  if (size > 0) {
    batch.AddReceived(*channel.socket, std::move(buffer));
    if ((cqe.flags & IORING_CQE_F_SOCK_NONEMPTY) != 0) {
      if (channel.run < kUringLongRun) ++channel.run;
    } else if (std::exchange(channel.run, 0) == kUringLongRun && channel.armed) {
      channel.yielding = true;
      MarkChanged(channel);
    }
    // Receives that are armed could take every buffer that comes free, and others wait for ever.
    if (channel.turns < kUringTurns) ++channel.turns;
    if (lists_->starved.empty()) return;
    if (!channel.armed) {
      lists_->starved.Push(channel);
    } else if (channel.turns == kUringTurns) {
      channel.yielding = true;
      MarkChanged(channel);
    }
  } else if (cqe.res == 0) {
    EndReceive(channel,
               channel.broken ? ErrorFromCode(ECONNRESET) : Error{ErrorKind::kEndOfStream, 0},
               batch);
  } else if (cqe.res == -ENOBUFS) {
    ++counters_.starved;
    lists_->starved.Push(channel);
  } else if (!TryAgain(channel, -cqe.res, channel.cancel_receive)) {
    EndReceive(channel, ErrorFromCode(-cqe.res), batch);
  }
}

bool UringPort::TryAgain(Channel& channel, int error_number, bool cancelled) {
  switch (error_number) {
    case EAGAIN:
      LetOperationsWait(DescriptorOf(*channel.socket));
      break;
    case EINTR:
      break;
    case ECANCELED:
      // For Pause; whether the operation is wanted again by now is seen when the channel is
      // settled.
      if (cancelled) return false;
      break;
    case ENOMEM:
      ++counters_.out_of_memory;
      delayed_until_ = Now() + kUringMemoryRetry;
      lists_->delayed.Push(channel);
      return true;
    default:
      return false;
  }
  MarkChanged(channel);
  return true;
}

void UringPort::OnAcceptResult(Channel& channel, const io_uring_cqe& cqe, Batch& batch) {
  if (cqe.res == -ECANCELED && channel.cancel_receive) {
    EndReceive(channel, ErrorFromCode(ECANCELED), batch);
  } else if (cqe.res >= 0) {
    if (channel.paused || channel.cancel_receive) return;
    if (!AcceptSome(*channel.socket, options_.gate, options_.max_accepts, batch)) {
      Pause(*channel.socket);
    }
  } else if (IsExhaustion(-cqe.res) || !TryAgain(channel, -cqe.res, false)) {
    // For the server to wait for, as when there is no descriptor (R8).
    Completion& completion = batch.Add(Operation::kAccept, channel.socket);
    completion.last = false;
    completion.error = {ErrorKind::kOutOfResources, -cqe.res};
    Pause(*channel.socket);
  }
}

void UringPort::OnSendResult(Channel& channel, int result, Batch& batch) {
  channel.ReportReads();
  --operations_in_flight_;
  channel.send_submitted = false;
  channel.stopping_send = false;
  if (result >= 0) {
    EndSend(channel, {}, static_cast<std::size_t>(result), batch);
  } else if (!TryAgain(channel, -result, channel.cancel_send)) {
    channel.broken = channel.broken || result != -ECANCELED;
    EndSend(channel, ErrorFromCode(-result), 0, batch);
  }
}

void UringPort::OnWatchResult(Channel& channel, int result, bool more) {
  if (result >= 0 && (result & POLLERR) != 0 && channel.paused)
    channel.broken = channel.broke_while_paused = true;
  if (!more) {
    --operations_in_flight_;
    channel.watched = false;
    channel.watch_ended = !std::exchange(channel.unwatching, false);
  }
  MarkChanged(channel);
}

// A cancellation can miss an operation that the kernel is working on at that moment. The kernel is
// asked again until the operation has come back.
void UringPort::OnCancelResult(Channel& channel, int result, std::uint64_t tag) {
  if (channel.socket == nullptr) {
    ReleaseIfUnused(channel);
    return;
  }
  if (result >= 0) return;
  bool& asked = tag == kCancelSendTag    ? channel.stopping_send
                : tag == kCancelWatchTag ? channel.unwatching
                                         : channel.disarming;
  if (!asked) return;
  asked = false;
  ++counters_.missed_cancels;
  MarkChanged(channel);
}

void UringPort::SetArmed(Channel& channel, bool armed) {
  if (channel.armed == armed) return;
  channel.armed = armed;
  operations_in_flight_ += armed ? std::size_t{1} : ~std::size_t{0};
}

void UringPort::EndReceive(Channel& channel, Error error, Batch& batch) {
  if (channel.listener) {
    batch.Add(Operation::kAccept, channel.socket).error = error;
  } else {
    batch.AddReceiveEnd(*channel.socket, error);
  }
  channel.receiving = false;
  channel.cancel_receive = false;
  CountAccepting(channel);
}

void UringPort::EndSend(Channel& channel, Error error, std::size_t bytes, Batch& batch) {
  channel.pieces.Drop(free_gathers_);
  batch.AddSent(*channel.socket, error, bytes);
  channel.sending = false;
  channel.cancel_send = false;
}

}  // namespace iocp
