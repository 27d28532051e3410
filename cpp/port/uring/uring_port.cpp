#include "port/uring/uring_port.h"

#include <poll.h>
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
#include "port/uring/uring_channel.h"

namespace iocp {
namespace {

// How long to wait when the kernel takes no submissions and has no completions either.
constexpr auto kPushBackNap = std::chrono::milliseconds(1);
constexpr auto kLongestSleep = std::chrono::hours(1);
// The kernel takes the length of one send as 32 bits. A longer piece becomes a short send.
constexpr std::size_t kMostPerSend = std::size_t{1} << 30U;

}  // namespace

UringPort::UringPort(const PortOptions& options, const UringTuning& tuning)
    : options_(options), tuning_(tuning), lists_(std::make_unique<Lists>()) {}

UringPort::~UringPort() {
  assert(operations_in_flight_ == 0 && "operations were never ended");
  // The ring still has the watch on wake_ and answers to cancellations. They touch no memory of
  // ours.
  if (has_ring_) io_uring_queue_exit(&ring_);
  while (all_channels_ != nullptr) delete std::exchange(all_channels_, all_channels_->next_in_all);
}

Error UringPort::Open() {
  const int refused = SetUpRing(&ring_, tuning_.set_up);
  if (refused < 0) return ErrorFromCode(-refused);
  has_ring_ = true;
  const int no_buffers =
      buffers_.Register(&ring_, options_.pool, tuning_.incremental_buffers, tuning_.blocks);
  if (no_buffers < 0) return ErrorFromCode(-no_buffers);
  if (const Error error = wake_.Open()) return error;
  return {};
}

// Null when there is no memory.
UringPort::Channel* UringPort::TakeChannel() {
  if (free_channels_ != nullptr) {
    Channel* channel = std::exchange(free_channels_, free_channels_->next_free);
    Channel* const next_in_all = channel->next_in_all;
    *channel = Channel{};
    channel->next_in_all = next_in_all;
    return channel;
  }
  auto* channel = new (std::nothrow) Channel;
  if (channel != nullptr) channel->next_in_all = std::exchange(all_channels_, channel);
  return channel;
}

void UringPort::ReleaseIfUnused(Channel& channel) {
  if (channel.socket != nullptr || channel.answers_due != 0) return;
  if (channel.changed || channel.starved || channel.delayed) return;
  channel.next_free = std::exchange(free_channels_, &channel);
}

UringPort::Channel& UringPort::ChannelOf(const Socket& socket) {
  return *static_cast<Channel*>(socket.port_data);
}

void UringPort::MarkChanged(Channel& channel) { lists_->changed.Push(channel); }

Error UringPort::Accept(Socket& listener) {
  const Error error = CheckListens(listener.handle);
  if (error) return error;
  Channel* channel = TakeChannel();
  if (channel == nullptr) return ErrorFromCode(ENOMEM);
  listener.port_data = channel;
  channel->socket = &listener;
  channel->listener = true;
  channel->receiving = true;
  CountAccepting(*channel);
  MarkChanged(*channel);
  return {};
}

void UringPort::CountAccepting(Channel& channel) {
  const bool accepting =
      channel.listener && channel.receiving && !channel.paused && !channel.cancel_receive;
  if (accepting == channel.counted) return;
  channel.counted = accepting;
  accepting_.fetch_add(accepting ? 1 : -1, std::memory_order_relaxed);
}

Error UringPort::Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) {
  const Error error = ReadEndpoints(handle, *local, local, remote);
  if (error) return error;
  Channel* channel = TakeChannel();
  if (channel == nullptr) return ErrorFromCode(ENOMEM);
  socket = Socket{};
  socket.handle = handle;
  socket.port_data = channel;
  channel->socket = &socket;
  return {};
}

void UringPort::Receive(Socket& socket) {
  ChannelOf(socket).receiving = true;
  MarkChanged(ChannelOf(socket));
}

void UringPort::Pause(Socket& socket) {
  ChannelOf(socket).paused = true;
  ChannelOf(socket).watch_ended = false;
  CountAccepting(ChannelOf(socket));
  MarkChanged(ChannelOf(socket));
}

void UringPort::Resume(Socket& socket) {
  ChannelOf(socket).paused = false;
  ChannelOf(socket).broke_while_paused = false;
  CountAccepting(ChannelOf(socket));
  MarkChanged(ChannelOf(socket));
}

void UringPort::Send(Socket& socket, const Piece* pieces, std::size_t count) {
  Channel& channel = ChannelOf(socket);
  channel.sending = true;
  MarkChanged(channel);
  channel.pieces.Keep(pieces, count, free_gathers_);
}

// Outside of the ring: the bytes go before those of any later Send, and the answer is there at
// once.
std::size_t UringPort::SendNow(Socket& socket, const Piece* pieces, std::size_t count) {
  Channel& channel = ChannelOf(socket);
  if (channel.now_error != 0 || !has_ring_) return 0;
  const std::size_t taken =
      TakenBySendNow(SendPieces(DescriptorOf(socket), pieces, count), &channel.now_error);
  channel.broken = channel.broken || channel.now_error != 0;
  return taken;
}

void UringPort::ShutdownSend(Socket& socket) {
  ChannelOf(socket).send_shut = true;
  ::shutdown(DescriptorOf(socket), SHUT_WR);
}

void UringPort::Cancel(Socket& socket) {
  Channel& channel = ChannelOf(socket);
  channel.cancel_receive = channel.receiving;
  channel.cancel_send = channel.sending;
  CountAccepting(channel);
  MarkChanged(channel);
}

void UringPort::Close(Socket& socket, bool reset) {
  Channel& channel = ChannelOf(socket);
  assert(!channel.receiving && !channel.sending && !channel.watched);
  const bool listener = channel.listener;
  channel.socket = nullptr;
  socket.port_data = nullptr;
  ReleaseIfUnused(channel);
  const NativeSocket handle = std::exchange(socket.handle, kNoSocket);
  if (listener) return;  // others may accept on it
  if (reset) {
    CloseSocket(handle, true);
  } else {
    CloseInOrderPosix(handle, options_.close_timeout);
  }
}

void UringPort::Discard(NativeSocket handle, bool reset) { CloseSocket(handle, reset); }

// Looks at the socket first: bytes that have left it are among the results by then. Without a ring
// the next Wait ends everything.
bool UringPort::ReceiveAtHand(Socket& socket, std::uint64_t) {
  if (!has_ring_ || ReadyPosix(socket.handle, POLLIN) != 0) return true;
  NoteLeftResults();
  return ChannelOf(socket).receive_left_by == waits_ || io_uring_cq_has_overflow(&ring_);
}

bool UringPort::SendAtHand(Socket& socket) {
  if (!has_ring_ || ReadyPosix(socket.handle, POLLOUT) != 0) return true;
  NoteLeftResults();
  return ChannelOf(socket).send_left_by == waits_ || io_uring_cq_has_overflow(&ring_);
}

// Looks at each result once between two Waits, however many connections are asked about.
void UringPort::NoteLeftResults() {
  const unsigned head = *ring_.cq.khead;
  if (std::exchange(left_by_, waits_) != waits_) left_seen_ = head;
  const unsigned end = head + io_uring_cq_ready(&ring_);
  for (; left_seen_ != end; ++left_seen_) {
    const io_uring_cqe& cqe = ring_.cq.cqes[left_seen_ & ring_.cq.ring_mask];
    const std::uint64_t tag = cqe.user_data & kTagMask;
    auto* const channel = reinterpret_cast<Channel*>(cqe.user_data & ~std::uint64_t{kTagMask});
    if (tag == kReceiveTag) channel->receive_left_by = waits_;
    if (tag == kSendTag) channel->send_left_by = waits_;
  }
}

std::size_t UringPort::Unacknowledged(Socket& socket) {
  return UnacknowledgedPosix(socket.handle, ChannelOf(socket).send_shut);
}

void UringPort::Post(Posting& posting) {
  if (posted_.Push(posting)) wake_.Signal();
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
  // A channel that cannot be settled now keeps its place, and keeps Wait from sleeping.
  while (!lists_->changed.empty() && Settle(*lists_->changed.first(), batch)) {
    ReleaseIfUnused(*lists_->changed.Pop());
  }
}

// Arms receives that found no buffer again, but only as many as there are buffers now: most of the
// others would find none again. Results in the completion queue have taken their buffers already.
void UringPort::ReleaseStarved() {
  found_no_buffer_ = !lists_->starved.empty();
  if (found_no_buffer_) {
    const std::size_t taken = io_uring_cq_ready(&ring_);
    for (std::size_t left = buffers_.ReceivesLeft(); left > taken; --left) {
      Channel* const channel = lists_->starved.Pop();
      if (channel == nullptr) break;
      MarkChanged(*channel);
    }
  }
  if (lists_->delayed.empty() || Now() < delayed_until_) return;
  while (Channel* const channel = lists_->delayed.Pop()) MarkChanged(*channel);
}

// False when there is no room in the batch or in the submission queue: it must be tried again.
bool UringPort::Settle(Channel& channel, Batch& batch) {
  if (!has_ring_) return SettleWithoutRing(channel, batch);
  if (channel.receiving && (!SettleWatch(channel) || !SettleReceive(channel, batch))) return false;
  return !channel.sending || SettleSend(channel, batch);
}

bool UringPort::SettleReceive(Channel& channel, Batch& batch) {
  const bool wanted = !channel.paused && !channel.cancel_receive && !channel.yielding;
  if (channel.armed) {
    if (wanted || channel.disarming) return true;
    const auto target = reinterpret_cast<std::uint64_t>(&channel) | kReceiveTag;
    channel.disarming = SubmitCancel(channel, kCancelReceiveTag, target);
    return channel.disarming;
  }
  if (channel.cancel_receive) {
    // The watch keeps the socket open.
    if (channel.watched) return true;
    if (batch.full()) return false;
    EndReceive(channel, ErrorFromCode(ECANCELED), batch);
    return true;
  }
  if (channel.broke_while_paused && !channel.watched) {
    if (batch.full()) return false;
    EndReceive(channel, TakeErrorPosix(channel.socket->handle), batch);
    return true;
  }
  if (!wanted || channel.watched || channel.starved || channel.delayed) return true;
  return SubmitReceive(channel);
}

// While a receive is paused, the kernel watches for a reset.
bool UringPort::SettleWatch(Channel& channel) {
  const bool wanted = channel.paused && !channel.cancel_receive && !channel.armed &&
                      !channel.listener && !channel.broke_while_paused;
  if (wanted == channel.watched || channel.unwatching) return true;
  if (wanted) return channel.watch_ended || SubmitWatch(channel);
  const auto target = reinterpret_cast<std::uint64_t>(&channel) | kWatchTag;
  channel.unwatching = SubmitCancel(channel, kCancelWatchTag, target);
  return channel.unwatching;
}

bool UringPort::SettleSend(Channel& channel, Batch& batch) {
  if (channel.send_submitted) {
    if (!channel.cancel_send || channel.stopping_send) return true;
    const auto target = reinterpret_cast<std::uint64_t>(&channel) | kSendTag;
    channel.stopping_send = SubmitCancel(channel, kCancelSendTag, target);
    return channel.stopping_send;
  }
  if (channel.cancel_send) {
    if (batch.full()) return false;
    EndSend(channel, ErrorFromCode(ECANCELED), 0, batch);
    return true;
  }
  if (channel.now_error != 0) {
    if (batch.full()) return false;
    EndSend(channel, ErrorFromCode(channel.now_error), 0, batch);
    return true;
  }
  return channel.delayed || SubmitSend(channel);
}

// Ends whatever has begun, with the error that broke the port.
bool UringPort::SettleWithoutRing(Channel& channel, Batch& batch) {
  if (channel.receiving) {
    if (batch.full()) return false;
    EndReceive(channel, channel.cancel_receive ? ErrorFromCode(ECANCELED) : refused_, batch);
  }
  if (channel.sending) {
    if (batch.full()) return false;
    EndSend(channel, channel.cancel_send ? ErrorFromCode(ECANCELED) : refused_, 0, batch);
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

bool UringPort::SubmitReceive(Channel& channel) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  if (channel.listener) {
    // Only a look: an accept in the ring gets a client in place of other ports that are free
    // (see posix_accept.h), and a multishot one takes the whole backlog before anybody can pause
    // it.
    io_uring_prep_poll_add(entry, DescriptorOf(*channel.socket), POLLIN);
  } else {
    // A multishot receive that finds much data takes every buffer there is, as soon as it is
    // submitted. While receives wait for buffers, or are submitted again as there are some now,
    // each gets one at a time.
    if (!found_no_buffer_ && lists_->starved.empty()) {
      io_uring_prep_recv_multishot(entry, DescriptorOf(*channel.socket), nullptr, 0, 0);
    } else {
      io_uring_prep_recv(entry, DescriptorOf(*channel.socket), nullptr, 0, 0);
    }
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = UringBuffers::kGroup;
  }
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&channel) | kReceiveTag);
  ++channel.answers_due;
  channel.turns = 0;
  SetArmed(channel, true);
  return true;
}

bool UringPort::SubmitSend(Channel& channel) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  const int fd = DescriptorOf(*channel.socket);
  if (channel.pieces.gather != nullptr) {
    io_uring_prep_sendmsg(entry, fd, &channel.pieces.gather->message, MSG_NOSIGNAL);
  } else {
    const Piece& piece = channel.pieces.piece;
    io_uring_prep_send(entry, fd, piece.data, std::min(piece.size, kMostPerSend), MSG_NOSIGNAL);
  }
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&channel) | kSendTag);
  channel.ReportReads();
  ++channel.answers_due;
  ++operations_in_flight_;
  channel.send_submitted = true;
  return true;
}

// Cancels by operation, not by descriptor: another connection may have the descriptor by the time
// the kernel looks. An operation is armed again under the same name only after the answers to the
// cancellations of the one before, so those cannot hit it.
bool UringPort::SubmitCancel(Channel& channel, std::uint64_t tag, std::uint64_t target) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  io_uring_prep_cancel64(entry, target, 0);
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&channel) | tag);
  ++channel.answers_due;
  return true;
}

bool UringPort::SubmitWatch(Channel& channel) {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  // Multishot, as the end of the peer's stream is reported too, and a reset may follow.
  io_uring_prep_poll_multishot(entry, DescriptorOf(*channel.socket), POLLERR);
  io_uring_sqe_set_data64(entry, reinterpret_cast<std::uint64_t>(&channel) | kWatchTag);
  ++channel.answers_due;
  ++operations_in_flight_;
  channel.watched = true;
  return true;
}

bool UringPort::SubmitWakeUp() {
  io_uring_sqe* entry = NextEntry();
  if (entry == nullptr) return false;
  io_uring_prep_poll_multishot(entry, wake_.descriptor(), POLLIN);
  io_uring_sqe_set_data64(entry, kWakeTag);
  wake_watched_ = true;
  return true;
}

// Makes one system call or none. A ring with DEFER_TASKRUN brings completions only in a call that
// asks for events. A call that merely submits leaves the sockets' data with the kernel until the
// results at hand have been handled.
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
  wake_.SleepUntilSignalled(static_cast<int>(timeout.tv_sec * 1000 +
                                             (timeout.tv_nsec + kMillisecond - 1) / kMillisecond));
  posted_.Awake();
}

// False when there is something to do at once.
bool UringPort::PrepareToSleep(TimePoint deadline, __kernel_timespec* timeout) {
  if (!lists_->changed.empty() || !posted_.empty() || !wake_watched_) return false;
  const TimePoint now = Now();
  if (deadline <= now) return false;
  auto sleep = std::min<Duration>(deadline - now, kLongestSleep);
  // Nobody reports that another thread gave a buffer back, or that the kernel has memory again.
  if (!lists_->starved.empty() || !lists_->delayed.empty()) {
    sleep = std::min<Duration>(sleep, kUringMemoryRetry);
  }
  if (!posted_.PrepareToSleep()) return false;
  timeout->tv_sec = std::chrono::duration_cast<std::chrono::seconds>(sleep).count();
  timeout->tv_nsec = (sleep % std::chrono::seconds(1)).count();
  return true;
}

// Entries that the kernel did not take stay in the submission queue for the next call.
void UringPort::NoteSubmission(int result) {
  pushed_back_ = result < 0 && result != -ETIME && result != -EINTR;
  if (!pushed_back_) return;
  // EBADR does not concern the submission: the kernel had no memory to keep completions for which
  // the queue had no room.
  ++(result == -EBADR ? counters_.dropped : counters_.refused_submits);
  const bool passes =
      result == -EBADR || result == -EBUSY || result == -EAGAIN || result == -ENOMEM;
  if (!passes) refused_ = ErrorFromCode(-result);
}

// Breaks the port (R11). First the ring goes, then everything in flight ends.
void UringPort::Break() {
  for (Channel* channel = all_channels_; channel != nullptr; channel = channel->next_in_all) {
    // The kernel takes its time to end the operations of a closed ring. Without a connection they
    // have nothing to receive and nobody to send to, so they touch no memory of ours.
    if (channel->send_submitted || (channel->armed && !channel->listener)) {
      DisconnectPosix(channel->socket->handle);
    }
  }
  io_uring_queue_exit(&ring_);
  has_ring_ = false;
  operations_in_flight_ = 0;
  while (Channel* const channel = lists_->starved.Pop()) MarkChanged(*channel);
  while (Channel* const channel = lists_->delayed.Pop()) MarkChanged(*channel);
  for (Channel* channel = all_channels_; channel != nullptr; channel = channel->next_in_all) {
    const bool was_due = std::exchange(channel->answers_due, 0U) != 0;
    channel->watched = channel->unwatching = false;
    if (channel->socket != nullptr) {
      MarkChanged(*channel);
    } else if (was_due) {
      ReleaseIfUnused(*channel);
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
    Listen,
    CloseListener,
};

}  // namespace iocp
