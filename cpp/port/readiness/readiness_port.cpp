#include "port/readiness/readiness_port.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <new>
#include <thread>
#include <utility>

#include "port/common/deadline.h"
#include "port/common/posix_accept.h"
#include "port/common/posix_net.h"

namespace iocp {
namespace {

// Socket::state.
constexpr std::uint8_t kReceiving = 1;  // true exactly when Accept or Receive has not ended
constexpr std::uint8_t kListener = 2;   // true exactly when it is a listener
constexpr std::uint8_t kPaused = 4;     // true exactly from Pause to Resume
constexpr std::uint8_t kSending = 8;    // true exactly when a send waits until it can be written
// True exactly when a send, or the poller, found the connection broken. The error is then no longer
// on the socket, and a receive would see an end of stream where there was none (R7).
constexpr std::uint8_t kBroken = 16;
constexpr std::uint8_t kSendShut = 32;  // true exactly when ShutdownSend was called

// ReadinessChannel::results: true exactly when the next Wait is to report it.
constexpr std::uint8_t kReceiveEnded = 1;  // the receive or the accept has ended
constexpr std::uint8_t kSendEnded = 2;
constexpr std::uint8_t kAcceptFailed = 4;  // accepting failed and is paused

int Descriptor(const Socket& socket) { return static_cast<int>(socket.handle); }

// The bits that the socket's operations wait for.
std::uint8_t Wanted(const Socket& socket) {
  std::uint8_t wanted = 0;
  if ((socket.state & kReceiving) != 0) {
    const bool paused = (socket.state & kPaused) != 0;
    if (!paused) wanted |= kReadable;
    if (paused && (socket.state & kListener) == 0) wanted |= kFailed;
  }
  if ((socket.state & kSending) != 0) wanted |= kWritable;
  return wanted;
}

}  // namespace

ReadinessPort::ReadinessPort(const PortOptions& options) : options_(options) {}

ReadinessPort::~ReadinessPort() { assert(results_.empty() && "results were never handed out"); }

ReadinessPort::Channel& ReadinessPort::ChannelOf(const Socket& socket) {
  return *static_cast<Channel*>(socket.port_data);
}

Error ReadinessPort::Open() { return poller_.Open(); }

Error ReadinessPort::Accept(Socket& listener) {
  const Error error = CheckListens(listener.handle);
  if (error) return error;
  auto* channel = new (std::nothrow) Channel;
  if (channel == nullptr) return ErrorFromCode(ENOMEM);
  channel->socket = &listener;
  channel->Join(&first_open_);
  listener.state = kReceiving | kListener;
  listener.interest = 0;
  listener.port_data = channel;
  CountAccepting(listener);
  Watch(listener);
  return {};
}

void ReadinessPort::CountAccepting(const Socket& socket) {
  const bool accepting =
      (socket.state & (kListener | kReceiving | kPaused)) == (kListener | kReceiving);
  if (std::exchange(ChannelOf(socket).counted, accepting) == accepting) return;
  accepting_.fetch_add(accepting ? 1 : -1, std::memory_order_relaxed);
}

Error ReadinessPort::Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) {
  const Error error = ReadEndpoints(handle, *local, local, remote);
  if (error) return error;
  auto* channel = new (std::nothrow) Channel;
  if (channel == nullptr) return ErrorFromCode(ENOMEM);
  channel->socket = &socket;
  channel->Join(&first_open_);
  socket = Socket{};
  socket.handle = handle;
  socket.port_data = channel;
  return {};
}

void ReadinessPort::Receive(Socket& socket) {
  socket.state |= kReceiving;
  Watch(socket);
}

void ReadinessPort::Pause(Socket& socket) {
  // The poller goes on watching. It stops only when it reports something that nobody wants, so a
  // short pause costs nothing.
  socket.state |= kPaused;
  CountAccepting(socket);
}

void ReadinessPort::Resume(Socket& socket) {
  if ((socket.state & kPaused) == 0) return;
  socket.state &= static_cast<std::uint8_t>(~kPaused);
  if ((socket.state & kReceiving) == 0) return;
  CountAccepting(socket);
  Watch(socket);
}

void ReadinessPort::Send(Socket& socket, const Piece* pieces, std::size_t count) {
  Channel& channel = ChannelOf(socket);
  if (channel.now_error != 0) {
    channel.sent = 0;
    channel.send_error = ErrorFromCode(channel.now_error);
    AddResult(channel, kSendEnded);
    return;
  }
  if (TrySend(socket, pieces, count)) {
    AddResult(channel, kSendEnded);
    return;
  }
  channel.pieces.Keep(pieces, count, free_gathers_);
  socket.state |= kSending;
  Watch(socket);
}

std::size_t ReadinessPort::SendNow(Socket& socket, const Piece* pieces, std::size_t count) {
  Channel& channel = ChannelOf(socket);
  if (channel.now_error != 0 || broken_) return 0;
  const std::size_t taken =
      TakenBySendNow(SendPieces(Descriptor(socket), pieces, count), &channel.now_error);
  if (channel.now_error != 0) socket.state |= kBroken;
  return taken;
}

void ReadinessPort::ShutdownSend(Socket& socket) {
  socket.state |= kSendShut;
  ::shutdown(Descriptor(socket), SHUT_WR);
}

void ReadinessPort::Cancel(Socket& socket) {
  const Error cancelled{ErrorKind::kCancelled, ECANCELED};
  EndReceive(socket, cancelled);
  EndSend(socket, cancelled);
}

// Ends a receive or an accept that was cancelled or cannot be served.
void ReadinessPort::EndReceive(Socket& socket, Error error) {
  if ((socket.state & kReceiving) == 0) return;
  socket.state &= static_cast<std::uint8_t>(~kReceiving);
  CountAccepting(socket);
  ChannelOf(socket).receive_error = error;
  AddResult(ChannelOf(socket), kReceiveEnded);
}

void ReadinessPort::EndSend(Socket& socket, Error error) {
  if ((socket.state & kSending) == 0) return;
  ForgetSend(socket);
  ChannelOf(socket).sent = 0;
  ChannelOf(socket).send_error = error;
  AddResult(ChannelOf(socket), kSendEnded);
}

// The send no longer waits for the socket.
void ReadinessPort::ForgetSend(Socket& socket) {
  socket.state &= static_cast<std::uint8_t>(~kSending);
  ChannelOf(socket).pieces.Drop(free_gathers_);
}

void ReadinessPort::AddResult(Channel& channel, std::uint8_t result) {
  if (channel.results == 0) results_.Push(channel);
  channel.results |= result;
}

void ReadinessPort::Close(Socket& socket, bool reset) {
  auto* const channel = static_cast<Channel*>(std::exchange(socket.port_data, nullptr));
  channel->Leave();
  Unwatch(socket);
  ready_.Forget(socket);
  assert(channel->results == 0 && "closed before its operations ended");
  delete channel;
  const NativeSocket handle = std::exchange(socket.handle, kNoSocket);
  if ((socket.state & kListener) != 0) return;  // others may accept on it
  if (reset) {
    CloseSocket(handle, true);
  } else {
    CloseInOrderPosix(handle, options_.close_timeout);
  }
}

void ReadinessPort::Discard(NativeSocket handle, bool reset) { CloseSocket(handle, reset); }

bool ReadinessPort::ReceiveAtHand(Socket& socket, std::uint64_t seen) {
  return socket.next_sequence != seen || (socket.state & kReceiving) == 0 ||
         ReadyPosix(socket.handle, POLLIN) != 0;
}

bool ReadinessPort::SendAtHand(Socket& socket) {
  return (socket.state & kSending) == 0 || ReadyPosix(socket.handle, POLLOUT) != 0;
}

std::size_t ReadinessPort::Unacknowledged(Socket& socket) {
  return UnacknowledgedPosix(socket.handle, (socket.state & kSendShut) != 0);
}

void ReadinessPort::Post(Posting& posting) {
  if (posted_.Push(posting)) poller_.Wake();
}

std::size_t ReadinessPort::Wait(Completion* completions, std::size_t capacity,
                                std::size_t max_bytes, TimePoint deadline) {
  Batch batch{completions, capacity, max_bytes};
  // Half of the batch is left for the sockets. Otherwise somebody who posts all the time could keep
  // them from being looked at.
  TakeAtHand(batch, capacity / 2);
  const bool at_hand = !results_.empty() || !posted_.empty() || report_broken_;
  if (ready_.empty()) PollSystem(deadline, batch.count == 0 && !at_hand);
  HandleReady(batch);
  TakeAtHand(batch, capacity);
  if (block_ != nullptr) {
    std::exchange(block_, nullptr)->DropReference();
    used_ = 0;
  }
  return batch.count;
}

// Adds postings and results, in turns, until the batch has `limit` entries.
void ReadinessPort::TakeAtHand(Batch& batch, std::size_t limit) {
  if (report_broken_ && batch.count < limit) {
    report_broken_ = false;
    batch.Add(Operation::kBroken, nullptr).error = broken_;
  }
  bool found = true;
  while (found && batch.count < limit) {
    found = false;
    if (Posting* posting = posted_.Take(); posting != nullptr) {
      batch.Add(Operation::kPost, nullptr).posting = posting;
      found = true;
    }
    if (!results_.empty() && batch.count < limit) {
      TakeResult(batch);
      found = true;
    }
  }
}

// Adds one result of the first channel in the queue.
void ReadinessPort::TakeResult(Batch& batch) {
  Channel& channel = *results_.first();
  Socket& socket = *channel.socket;
  if ((channel.results & kAcceptFailed) != 0) {
    channel.results &= static_cast<std::uint8_t>(~kAcceptFailed);
    Completion& completion = batch.Add(Operation::kAccept, &socket);
    completion.last = false;
    completion.error = channel.send_error;
  } else if ((channel.results & kSendEnded) != 0) {
    channel.results &= static_cast<std::uint8_t>(~kSendEnded);
    batch.AddSent(socket, channel.send_error, channel.sent);
  } else {
    channel.results &= static_cast<std::uint8_t>(~kReceiveEnded);
    if ((socket.state & kListener) != 0) {
      batch.Add(Operation::kAccept, &socket).error = channel.receive_error;
    } else {
      batch.AddReceiveEnd(socket, channel.receive_error);
    }
  }
  if (channel.results == 0) results_.Pop();
}

void ReadinessPort::PollSystem(TimePoint deadline, bool may_sleep) {
  int timeout = may_sleep ? MillisecondsUntil(deadline) : 0;
  if (timeout != 0 && !posted_.PrepareToSleep()) timeout = 0;
  ready_.Clear();
  if (!broken_) {
    if (const int code = poller_.Wait(timeout, ready_); code != 0) Break(code);
  } else if (timeout != 0) {
    poller_.SleepUntilWoken(timeout);
  }
  if (timeout != 0) posted_.Awake();
}

// The system no longer lets this port wait or watch, and never will again (R11).
void ReadinessPort::Break(int error_number) {
  if (broken_) return;
  broken_ = ErrorFromCode(error_number);
  report_broken_ = true;
  ready_.Clear();
  for (Channel* channel = first_open_; channel != nullptr; channel = channel->next_open) {
    EndReceive(*channel->socket, broken_);
    EndSend(*channel->socket, broken_);
  }
}

void ReadinessPort::HandleReady(Batch& batch) {
  while (!ready_.empty() && !batch.full() && batch.HasRoomFor(1)) {
    const Ready ready = ready_.Take();
    if (ready.socket == nullptr) continue;
    Socket& socket = *ready.socket;
    const std::uint8_t wanted = Wanted(socket);
    const bool broken = (ready.what & (kFailed | kHungUp)) != 0;
    const bool in = (wanted & kReadable) != 0 && ((ready.what & kReadable) != 0 || broken);
    const bool out = (wanted & kWritable) != 0 && ((ready.what & kWritable) != 0 || broken);
    if (out) FinishSend(socket, batch);
    if (in && !batch.full()) {
      if ((socket.state & kListener) != 0) {
        if (!AcceptSome(socket, options_.gate, options_.max_accepts, batch)) {
          Pause(socket);
          Watch(socket);
        }
      } else if (!ReceiveOnce(socket, batch)) {
        return;
      }
    }
    if (in || out) continue;
    if ((wanted & kFailed) != 0 && (ready.what & kFailed) != 0) {
      // The connection broke while it was paused.
      EndReceive(socket, TakeErrorPosix(socket.handle));
      socket.state |= kBroken;
    }
    // The poller would report again and again what nobody wants.
    if (broken) {
      Unwatch(socket);
    } else {
      Watch(socket);
    }
  }
}

// Sees to it that block_ has room. False when there is no memory.
bool ReadinessPort::RoomToReceive() {
  // A block with less than half of its room left would cut large messages into small receives.
  if (block_ != nullptr && block_->capacity() - used_ < block_->capacity() / 2) {
    std::exchange(block_, nullptr)->DropReference();
  }
  if (block_ == nullptr) {
    block_ = options_.pool->Take();
    used_ = 0;
  }
  if (block_ == nullptr) {
    // The sockets stay ready. Asking for memory again at once would only burn the processor.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return false;
  }
  return true;
}

// False when there is no memory for what the socket has.
bool ReadinessPort::ReceiveOnce(Socket& socket, Batch& batch) {
  if (!RoomToReceive()) return false;
  const std::size_t budget = batch.bytes == 0 ? block_->capacity() : batch.max_bytes - batch.bytes;
  const std::size_t room = std::min(block_->capacity() - used_, budget);
  ssize_t received = 0;
  do {
    received = ::recv(Descriptor(socket), block_->data() + used_, room, 0);
  } while (received < 0 && errno == EINTR);
  if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
  if (received <= 0) {
    Error error = ErrorFromCode(errno);
    if (received == 0) {
      error = (socket.state & kBroken) != 0 ? Error{ErrorKind::kReset, ECONNRESET}
                                            : Error{ErrorKind::kEndOfStream, 0};
    }
    socket.state &= static_cast<std::uint8_t>(~kReceiving);
    batch.AddReceiveEnd(socket, error);
    return true;
  }
  const auto size = static_cast<std::size_t>(received);
  batch.AddReceived(socket, block_->Slice(used_, size));
  used_ += size;
  return true;
}

void ReadinessPort::FinishSend(Socket& socket, Batch& batch) {
  Channel& channel = ChannelOf(socket);
  if (!TrySend(socket, channel.pieces.first(), channel.pieces.count())) return;
  ForgetSend(socket);
  batch.AddSent(socket, channel.send_error, channel.sent);
}

// Notes the result in the channel; false when it would block.
bool ReadinessPort::TrySend(Socket& socket, const Piece* pieces, std::size_t count) {
  const ssize_t sent = SendPieces(Descriptor(socket), pieces, count);
  if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  Channel& channel = ChannelOf(socket);
  if (sent < 0) {
    channel.sent = 0;
    channel.send_error = ErrorFromCode(errno);
    socket.state |= kBroken;
  } else {
    channel.sent = static_cast<std::size_t>(sent);
    channel.send_error = {};
  }
  return true;
}

// Makes the poller watch for what the socket waits for, unless it does already.
void ReadinessPort::Watch(Socket& socket) {
  if (broken_) {
    EndReceive(socket, broken_);
    EndSend(socket, broken_);
    return;
  }
  const std::uint8_t wanted = Wanted(socket);
  if (wanted == 0) {
    Unwatch(socket);
    return;
  }
  if (wanted == socket.interest) return;
  const int code = poller_.Watch(socket, socket.interest, wanted);
  if (code == 0) {
    socket.interest = wanted;
  } else if (!Poller::IsShortage(code)) {
    Break(code);
  } else if ((socket.state & kListener) != 0) {
    // It cannot be served for now.
    Pause(socket);
    ChannelOf(socket).send_error = {ErrorKind::kOutOfResources, code};
    AddResult(ChannelOf(socket), kAcceptFailed);
  } else {
    EndReceive(socket, ErrorFromCode(code));
    EndSend(socket, ErrorFromCode(code));
  }
}

void ReadinessPort::Unwatch(Socket& socket) {
  const std::uint8_t known = std::exchange(socket.interest, std::uint8_t{0});
  if (known == 0) return;
  if (const int code = poller_.Watch(socket, known, 0); code != 0) Break(code);
}

namespace {

std::string WhyUnavailable() { return ""; }

std::unique_ptr<CompletionPort> CreatePort(const PortOptions& options) {
  return std::make_unique<ReadinessPort>(options);
}

}  // namespace

constinit const PortKind kReadinessPortKind = {Poller::kName, &WhyUnavailable, &CreatePort, &Listen,
                                               &CloseListener};

}  // namespace iocp
