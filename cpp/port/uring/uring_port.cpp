#include "port/uring/uring_port.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <new>
#include <thread>
#include <utility>

#include "port/common/posix_accept.h"
#include "port/common/posix_net.h"
#include "port/uring/uring_link.h"

namespace iocp {
namespace {

// How long to wait when it takes no submissions and has no completions either.
constexpr auto kPushBackNap = std::chrono::milliseconds(1);
constexpr auto kLongestSleep = std::chrono::hours(1);
// The length of one send is 32 bits wide for the kernel. More than that is a short send.
constexpr std::size_t kMostPerSend = std::size_t{1} << 30U;

}  // namespace

UringPort::UringPort(const PortOptions& options, const UringTuning& tuning)
    : options_(options), tuning_(tuning), lists_(std::make_unique<Lists>()) {}

UringPort::~UringPort() {
  assert(operations_in_flight_ == 0 && "operations were never ended");
  // What the ring still has touches no memory of ours: the watch on wake_, answers to
  // cancellations.
  if (has_ring_) io_uring_queue_exit(&ring_);
  if (wake_ >= 0) ::close(wake_);
  while (all_links_ != nullptr) delete std::exchange(all_links_, all_links_->next_in_all);
  while (free_gathers_ != nullptr) delete std::exchange(free_gathers_, free_gathers_->next);
}

Error UringPort::Open() {
  const int refused = SetUpRing(&ring_, tuning_.set_up);
  if (refused < 0) return ErrorFromErrno(-refused);
  has_ring_ = true;
  const int no_buffers =
      buffers_.Register(&ring_, options_.pool, tuning_.incremental_buffers, tuning_.blocks);
  if (no_buffers < 0) return ErrorFromErrno(-no_buffers);
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_ < 0) return ErrorFromErrno(errno);
  return {};
}

// Null when there is no memory.
UringPort::Link* UringPort::TakeLink() {
  if (free_links_ != nullptr) {
    Link* link = std::exchange(free_links_, free_links_->next_free);
    Link* const next_in_all = link->next_in_all;
    *link = Link{};
    link->next_in_all = next_in_all;
    return link;
  }
  auto* link = new (std::nothrow) Link;
  if (link != nullptr) link->next_in_all = std::exchange(all_links_, link);
  return link;
}

void UringPort::ReleaseIfUnused(Link& link) {
  if (link.socket != nullptr || link.answers_due != 0) return;
  if (link.changed || link.starved || link.delayed) return;
  link.next_free = std::exchange(free_links_, &link);
}

UringPort::Link& UringPort::LinkOf(const Socket& socket) {
  return *static_cast<Link*>(socket.port_data);
}

void UringPort::MarkChanged(Link& link) { lists_->changed.Push(link); }

Error UringPort::Accept(Socket& listener) {
  const Error error = CheckListensPosix(listener.handle);
  if (error) return error;
  Link* link = TakeLink();
  if (link == nullptr) return ErrorFromErrno(ENOMEM);
  listener.port_data = link;
  link->socket = &listener;
  link->listener = true;
  link->receiving = true;
  CountAccepting(*link);
  MarkChanged(*link);
  return {};
}

void UringPort::CountAccepting(Link& link) {
  const bool accepting = link.listener && link.receiving && !link.paused && !link.cancel_receive;
  if (accepting == link.counted) return;
  link.counted = accepting;
  accepting_.fetch_add(accepting ? 1 : -1, std::memory_order_relaxed);
}

Error UringPort::Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) {
  const Error error = EndpointsPosix(handle, *local, local, remote);
  if (error) return error;
  Link* link = TakeLink();
  if (link == nullptr) return ErrorFromErrno(ENOMEM);
  socket = Socket{};
  socket.handle = handle;
  socket.port_data = link;
  link->socket = &socket;
  return {};
}

void UringPort::Receive(Socket& socket) {
  LinkOf(socket).receiving = true;
  MarkChanged(LinkOf(socket));
}

void UringPort::Pause(Socket& socket) {
  LinkOf(socket).paused = true;
  LinkOf(socket).watch_ended = false;
  CountAccepting(LinkOf(socket));
  MarkChanged(LinkOf(socket));
}

void UringPort::Resume(Socket& socket) {
  LinkOf(socket).paused = false;
  LinkOf(socket).broke_while_paused = false;
  CountAccepting(LinkOf(socket));
  MarkChanged(LinkOf(socket));
}

void UringPort::Send(Socket& socket, const Piece* pieces, std::size_t count) {
  static_assert(sizeof(Piece) == sizeof(iovec) &&
                offsetof(Piece, size) == offsetof(iovec, iov_len));
  Link& link = LinkOf(socket);
  link.sending = true;
  MarkChanged(link);
  if (count > 1) {
    link.gather = free_gathers_ != nullptr ? std::exchange(free_gathers_, free_gathers_->next)
                                           : new (std::nothrow) Gather;
  }
  if (link.gather == nullptr) {
    // Without memory for the rest of them, the first piece is a short send.
    link.piece = {const_cast<void*>(pieces->data), std::min(pieces->size, kMostPerSend)};
    return;
  }
  std::transform(pieces, pieces + count, link.gather->pieces, [](const Piece& piece) {
    return iovec{const_cast<void*>(piece.data), piece.size};
  });
  link.gather->message = msghdr{};
  link.gather->message.msg_iov = link.gather->pieces;
  link.gather->message.msg_iovlen = count;
}

void UringPort::ShutdownSend(Socket& socket) {
  LinkOf(socket).send_shut = true;
  ::shutdown(DescriptorOf(socket), SHUT_WR);
}

void UringPort::Cancel(Socket& socket) {
  Link& link = LinkOf(socket);
  link.cancel_receive = link.receiving;
  link.cancel_send = link.sending;
  CountAccepting(link);
  MarkChanged(link);
}

void UringPort::Close(Socket& socket, bool reset) {
  Link& link = LinkOf(socket);
  assert(!link.receiving && !link.sending && !link.watched);
  const bool listener = link.listener;
  link.socket = nullptr;
  socket.port_data = nullptr;
  ReleaseIfUnused(link);
  const NativeSocket handle = std::exchange(socket.handle, kNoSocket);
  if (listener) return;  // others may accept on it
  if (reset) {
    ClosePosix(handle, true);
  } else {
    CloseInOrderPosix(handle, options_.close_timeout);
  }
}

void UringPort::Discard(NativeSocket handle, bool reset) { ClosePosix(handle, reset); }

// The socket first: what it no longer has is among the results by then. Without a ring the next
// Wait ends everything.
bool UringPort::ReceiveAtHand(Socket& socket, std::uint64_t) {
  if (!has_ring_ || ReadyPosix(socket.handle, POLLIN) != 0) return true;
  NoteLeftResults();
  return LinkOf(socket).receive_left_by == waits_ || io_uring_cq_has_overflow(&ring_);
}

bool UringPort::SendAtHand(Socket& socket) {
  if (!has_ring_ || ReadyPosix(socket.handle, POLLOUT) != 0) return true;
  NoteLeftResults();
  return LinkOf(socket).send_left_by == waits_ || io_uring_cq_has_overflow(&ring_);
}

// Each result is looked at once between two Waits, however many connections are asked about.
void UringPort::NoteLeftResults() {
  const unsigned head = *ring_.cq.khead;
  if (std::exchange(left_by_, waits_) != waits_) left_seen_ = head;
  const unsigned end = head + io_uring_cq_ready(&ring_);
  for (; left_seen_ != end; ++left_seen_) {
    const io_uring_cqe& cqe = ring_.cq.cqes[left_seen_ & ring_.cq.ring_mask];
    const std::uint64_t tag = cqe.user_data & kTagMask;
    auto* const link = reinterpret_cast<Link*>(cqe.user_data & ~std::uint64_t{kTagMask});
    if (tag == kReceiveTag) link->receive_left_by = waits_;
    if (tag == kSendTag) link->send_left_by = waits_;
  }
}

std::size_t UringPort::Unacknowledged(Socket& socket) {
  return UnacknowledgedPosix(socket.handle, LinkOf(socket).send_shut);
}

void UringPort::Post(Posting& posting) {
  if (!posted_.Push(posting)) return;
  const std::uint64_t one = 1;
  // It cannot fail: the counter would have to overflow.
  [[maybe_unused]] const auto written = ::write(wake_, &one, sizeof(one));
}

std::size_t UringPort::Wait(Completion* completions, std::size_t capacity, std::size_t max_bytes,
                            TimePoint deadline) {
  Batch batch{completions, capacity, max_bytes};
  ++waits_;
  const bool postings_first = std::exchange(postings_first_, !postings_first_);
  for (;;) {
    if (postings_first) TakePostings(batch);
    SettleChanges(batch);
    if (has_ring_) {
      EnterSystem(batch, deadline);
      TakeResults(batch);
      if (refused_ && io_uring_cq_ready(&ring_) == 0) Break();
    } else {
      SleepWithoutRing(batch, deadline);
    }
    TakePostings(batch);
    if (batch.count != 0) return batch.count;
    if (Now() >= deadline) return 0;
  }
}

void UringPort::TakePostings(Batch& batch) {
  while (!batch.full()) {
    Posting* posting = posted_.Take();
    if (posting == nullptr) return;
    batch.Add(Operation::kPost, nullptr).posting = posting;
  }
}

void UringPort::SettleChanges(Batch& batch) {
  if (report_broken_ && !batch.full()) {
    report_broken_ = false;
    batch.Add(Operation::kBroken, nullptr).error = refused_;
  }
  if (has_ring_) {
    buffers_.Refill();
    ReleaseStarved();
    if (!wake_watched_) SubmitWakeUp();
  }
  // What cannot be settled now keeps its place, and keeps Wait from sleeping.
  while (!lists_->changed.empty() && Settle(lists_->changed.front(), batch)) {
    ReleaseIfUnused(lists_->changed.Pop());
  }
}

// Receives that found no buffer are armed again only as far as there are buffers now: all at once
// would mostly find none again. What waits in the completion queue has taken its buffers already.
void UringPort::ReleaseStarved() {
  if (!lists_->starved.empty()) {
    const std::size_t taken = io_uring_cq_ready(&ring_);
    for (std::size_t left = buffers_.ReceivesLeft(); left > taken; --left) {
      if (lists_->starved.empty()) break;
      MarkChanged(lists_->starved.Pop());
    }
  }
  if (lists_->delayed.empty() || Now() < delayed_until_) return;
  while (!lists_->delayed.empty()) MarkChanged(lists_->delayed.Pop());
}

// False when it has to be tried again: no room in the batch, or in the submission queue.
bool UringPort::Settle(Link& link, Batch& batch) {
  if (!has_ring_) return SettleWithoutRing(link, batch);
  if (link.receiving && (!SettleWatch(link) || !SettleReceive(link, batch))) return false;
  return !link.sending || SettleSend(link, batch);
}

bool UringPort::SettleReceive(Link& link, Batch& batch) {
  const bool wanted = !link.paused && !link.cancel_receive && !link.yielding;
  if (link.armed) {
    if (wanted || link.disarming) return true;
    const auto target = reinterpret_cast<std::uint64_t>(&link) | kReceiveTag;
    link.disarming = SubmitCancel(link, kCancelReceiveTag, target);
    return link.disarming;
  }
  if (link.cancel_receive) {
    // The watch keeps the socket open.
    if (link.watched) return true;
    if (batch.full()) return false;
    EndReceive(link, ErrorFromErrno(ECANCELED), batch);
    return true;
  }
  if (link.broke_while_paused && !link.watched) {
    if (batch.full()) return false;
    EndReceive(link, TakeErrorPosix(link.socket->handle), batch);
    return true;
  }
  if (!wanted || link.watched || link.starved || link.delayed) return true;
  return SubmitReceive(link);
}

// A receive that is paused has the kernel look out for a reset.
bool UringPort::SettleWatch(Link& link) {
  const bool wanted = link.paused && !link.cancel_receive && !link.armed && !link.listener &&
                      !link.broke_while_paused;
  if (wanted == link.watched || link.unwatching) return true;
  if (wanted) return link.watch_ended || SubmitWatch(link);
  const auto target = reinterpret_cast<std::uint64_t>(&link) | kWatchTag;
  link.unwatching = SubmitCancel(link, kCancelWatchTag, target);
  return link.unwatching;
}

bool UringPort::SettleSend(Link& link, Batch& batch) {
  if (link.send_submitted) {
    if (!link.cancel_send || link.stopping_send) return true;
    const auto target = reinterpret_cast<std::uint64_t>(&link) | kSendTag;
    link.stopping_send = SubmitCancel(link, kCancelSendTag, target);
    return link.stopping_send;
  }
  if (link.cancel_send) {
    if (batch.full()) return false;
    EndSend(link, ErrorFromErrno(ECANCELED), 0, batch);
    return true;
  }
  return link.delayed || SubmitSend(link);
}

// Whatever has begun ends, with the error that broke the port.
bool UringPort::SettleWithoutRing(Link& link, Batch& batch) {
  if (link.receiving) {
    if (batch.full()) return false;
    EndReceive(link, link.cancel_receive ? ErrorFromErrno(ECANCELED) : refused_, batch);
  }
  if (link.sending) {
    if (batch.full()) return false;
    EndSend(link, link.cancel_send ? ErrorFromErrno(ECANCELED) : refused_, 0, batch);
  }
  return true;
}

// Null when the kernel takes no submissions now.
io_uring_sqe* UringPort::NextEntry() {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry != nullptr) return entry;
  NoteSubmission(io_uring_submit(&ring_));
  return io_uring_get_sqe(&ring_);
}

bool UringPort::SubmitReceive(Link& link) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  if (link.listener) {
    // Only a look: an accept in the ring is told of a client in place of other ports that are free
    // (see posix_accept.h), and a multishot one takes the whole backlog before anybody can pause
    // it.
    io_uring_prep_poll_add(entry, DescriptorOf(*link.socket), POLLIN);
  } else {
    // A multishot receive that finds much data takes every buffer there is. While others wait for
    // one, each gets one at a time.
    if (lists_->starved.empty()) {
      io_uring_prep_recv_multishot(entry, DescriptorOf(*link.socket), nullptr, 0, 0);
    } else {
      io_uring_prep_recv(entry, DescriptorOf(*link.socket), nullptr, 0, 0);
    }
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = UringBuffers::kGroup;
  }
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&link) | kReceiveTag);
  ++link.answers_due;
  link.turns = 0;
  SetArmed(link, true);
  return true;
}

bool UringPort::SubmitSend(Link& link) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  const int fd = DescriptorOf(*link.socket);
  if (link.gather != nullptr) {
    io_uring_prep_sendmsg(entry, fd, &link.gather->message, MSG_NOSIGNAL);
  } else {
    io_uring_prep_send(entry, fd, link.piece.iov_base, link.piece.iov_len, MSG_NOSIGNAL);
  }
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&link) | kSendTag);
  link.TellWhatIsRead();
  ++link.answers_due;
  ++operations_in_flight_;
  link.send_submitted = true;
  return true;
}

// By the operation, not by the descriptor, which may be another connection's by the time the kernel
// looks. An operation is armed again under its name only after the cancellations of the one before,
// so those cannot hit it.
bool UringPort::SubmitCancel(Link& link, std::uint64_t tag, std::uint64_t target) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  io_uring_prep_cancel64(entry, target, 0);
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&link) | tag);
  ++link.answers_due;
  return true;
}

bool UringPort::SubmitWatch(Link& link) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  // Multishot, as the end of the peer's stream is reported too, and a reset may follow.
  io_uring_prep_poll_multishot(entry, DescriptorOf(*link.socket), POLLERR);
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&link) | kWatchTag);
  ++link.answers_due;
  ++operations_in_flight_;
  link.watched = true;
  return true;
}

bool UringPort::SubmitWakeUp() {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  io_uring_prep_poll_multishot(entry, wake_, POLLIN);
  io_uring_sqe_set_data64(entry, kWakeTag);
  wake_watched_ = true;
  return true;
}

// One system call, or none. Completions of a ring with DEFER_TASKRUN only come forth in a call that
// asks for events; a call that merely submits leaves the sockets' data with the kernel until what
// is at hand has been dealt with.
void UringPort::EnterSystem(const Batch& batch, TimePoint deadline) {
  const bool overflow = io_uring_cq_has_overflow(&ring_);
  if (overflow) ++counters_.overflows;
  const bool busy = batch.count != 0 || io_uring_cq_ready(&ring_) != 0;
  if (busy && !skipped_system_ && !overflow) {
    skipped_system_ = true;
    if (io_uring_sq_ready(&ring_) != 0) NoteSubmission(io_uring_submit(&ring_));
    return;
  }
  skipped_system_ = false;
  __kernel_timespec timeout{};
  if (busy || !PrepareToSleep(deadline, &timeout)) {
    NoteSubmission(io_uring_submit_and_get_events(&ring_));
  } else {
    io_uring_cqe* first = nullptr;
    NoteSubmission(io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr));
    posted_.Awake();
  }
  if (pushed_back_ && !busy && io_uring_cq_ready(&ring_) == 0) {
    std::this_thread::sleep_for(kPushBackNap);
  }
}

void UringPort::SleepWithoutRing(const Batch& batch, TimePoint deadline) {
  __kernel_timespec timeout{};
  if (batch.count != 0 || !PrepareToSleep(deadline, &timeout)) return;
  constexpr long long kMillisecond = 1'000'000;
  SleepUntilWritten(wake_, static_cast<int>(timeout.tv_sec * 1000 +
                                            (timeout.tv_nsec + kMillisecond - 1) / kMillisecond));
  posted_.Awake();
}

// False when there is something to do at once.
bool UringPort::PrepareToSleep(TimePoint deadline, __kernel_timespec* timeout) {
  if (!lists_->changed.empty() || !posted_.empty() || !wake_watched_) return false;
  const TimePoint now = Now();
  if (deadline <= now) return false;
  auto sleep = std::min<Duration>(deadline - now, kLongestSleep);
  // Nothing tells us when another thread gives a buffer back, or the kernel has memory again.
  if (!lists_->starved.empty() || !lists_->delayed.empty()) {
    sleep = std::min<Duration>(sleep, kUringMemoryRetry);
  }
  if (!posted_.PrepareToSleep()) return false;
  timeout->tv_sec = std::chrono::duration_cast<std::chrono::seconds>(sleep).count();
  timeout->tv_nsec = (sleep % std::chrono::seconds(1)).count();
  return true;
}

// Whatever the kernel did not take stays in the submission queue for the next call.
void UringPort::NoteSubmission(int result) {
  pushed_back_ = result < 0 && result != -ETIME && result != -EINTR;
  if (!pushed_back_) return;
  // EBADR is not about submitting: the kernel had no memory to keep completions for which there was
  // no room.
  ++(result == -EBADR ? counters_.dropped : counters_.refused_submits);
  const bool passes =
      result == -EBADR || result == -EBUSY || result == -EAGAIN || result == -ENOMEM;
  if (!passes) refused_ = ErrorFromErrno(-result);
}

// The port is broken (R11). First the ring goes, then all that was in flight ends.
void UringPort::Break() {
  for (Link* link = all_links_; link != nullptr; link = link->next_in_all) {
    // The kernel takes its time to end what a closed ring had. Whatever it does until then, it does
    // to no memory of ours: without its connection there is nothing to receive or to send to.
    if (link->send_submitted || (link->armed && !link->listener)) {
      DisconnectPosix(link->socket->handle);
    }
  }
  io_uring_queue_exit(&ring_);
  has_ring_ = false;
  operations_in_flight_ = 0;
  while (!lists_->starved.empty()) MarkChanged(lists_->starved.Pop());
  while (!lists_->delayed.empty()) MarkChanged(lists_->delayed.Pop());
  for (Link* link = all_links_; link != nullptr; link = link->next_in_all) {
    const bool was_due = std::exchange(link->answers_due, 0U) != 0;
    link->watched = link->unwatching = false;
    if (link->socket != nullptr) {
      MarkChanged(*link);
    } else if (was_due) {
      ReleaseIfUnused(*link);
    }
  }
  wake_watched_ = true;  // by SleepWithoutRing
  report_broken_ = true;
}

constinit const PortKind kUringPortKind = {
    "io_uring",
    WhyUringIsUnavailable,
    [](const PortOptions& options) -> std::unique_ptr<CompletionPort> {
      return std::make_unique<UringPort>(options);
    },
    ListenPosix,
    CloseListenerPosix,
};

}  // namespace iocp
