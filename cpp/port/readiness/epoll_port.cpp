#include "port/readiness/epoll_port.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <new>
#include <thread>
#include <utility>

#include "port/common/posix_accept.h"
#include "port/common/posix_net.h"

namespace iocp {
namespace {

// Socket::state.
constexpr std::uint8_t kReceiving = 1;  // true exactly when Accept or Receive has not ended
constexpr std::uint8_t kListener = 2;   // true exactly when it is a listener
constexpr std::uint8_t kPaused = 4;     // true exactly from Pause to Resume
constexpr std::uint8_t kSending = 8;    // true exactly when a send waits until it can be written
// True exactly when a send found the connection broken. That took the error off the socket, so that
// a receive would see an end of stream where there was none (R7).
constexpr std::uint8_t kBroken = 16;
constexpr std::uint8_t kSendShut = 32;  // true exactly when ShutdownSend was called

// Socket::interest.
constexpr std::uint8_t kWatchIn = 1;
constexpr std::uint8_t kWatchOut = 2;
constexpr std::uint8_t kRegistered = 4;  // true exactly when epoll knows the descriptor
// True exactly when epoll is to report that a paused connection breaks. Epoll does so without being
// asked.
constexpr std::uint8_t kWatchBroken = 8;

// Stream::results: true exactly when the next Wait is to tell of it.
constexpr std::uint8_t kReceiveEnded = 1;  // the operation that receives or accepts
constexpr std::uint8_t kSendEnded = 2;
constexpr std::uint8_t kAcceptFailed = 4;  // and was paused

int Descriptor(const Socket& socket) { return static_cast<int>(socket.handle); }

std::uint8_t Wanted(const Socket& socket) {
  std::uint8_t wanted = 0;
  if ((socket.state & kReceiving) != 0) {
    const bool paused = (socket.state & kPaused) != 0;
    if (!paused) wanted |= kWatchIn;
    if (paused && (socket.state & kListener) == 0) wanted |= kWatchBroken;
  }
  if ((socket.state & kSending) != 0) wanted |= kWatchOut;
  return wanted;
}

int MillisecondsUntil(TimePoint deadline) {
  if (deadline == TimePoint::max()) return -1;
  const TimePoint now = std::chrono::steady_clock::now();
  // Compared, not subtracted: TimePoint::min() stands for a deadline that has long passed.
  if (deadline <= now) return 0;
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<int>(std::min<std::int64_t>(milliseconds, 3'600'000));
}

// The last completion of what receives.
Completion ReceiveEnded(Socket& socket, Error error) {
  Completion completion;
  completion.operation = Operation::kReceive;
  completion.error = error;
  completion.socket = &socket;
  completion.sequence = socket.next_sequence++;
  return completion;
}

}  // namespace

// The pieces of a send that would have blocked, where there is more than one.
struct EpollPort::Gather {
  Gather* next = nullptr;
  std::size_t count = 0;
  Piece pieces[kMaxPieces];
};

// What the port keeps of a connection from Adopt to Close, and of a listener from Accept on. What
// ends is told of from here, so that no call needs memory to end an operation, however many do.
struct EpollPort::Stream {
  Socket* socket = nullptr;
  Stream* next_open = nullptr;  // in the list of all
  Stream** previous_open = nullptr;
  Stream* next = nullptr;    // in the list of those with results
  std::uint8_t results = 0;  // in that list exactly when not 0
  Error receive_error;       // of kReceiveEnded
  Error send_error;          // of kSendEnded; of kAcceptFailed, as listeners do not send
  std::size_t sent = 0;      // of kSendEnded
  bool counted = false;      // true exactly when it is in EpollPort::accepting_
  // Of a send that waits until the socket can be written: what is in `gather`, or without it
  // `piece`.
  Piece piece{};
  Gather* gather = nullptr;

  void Join(Stream** first) {
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

// What one Wait hands out.
struct EpollPort::Batch {
  Completion* completions;
  std::size_t capacity;
  std::size_t max_bytes;
  std::size_t count = 0;
  std::size_t bytes = 0;
  bool no_memory = false;  // true exactly when there was no buffer for a receive

  // One receive always fits, however small the bound.
  [[nodiscard]] bool wants_bytes() const { return bytes == 0 || bytes < max_bytes; }
  [[nodiscard]] bool full() const { return count == capacity; }
  void Add(Completion completion) { completions[count++] = std::move(completion); }
  // An empty completion of the caller's, to be filled in.
  Completion& Add(Operation operation, Socket* socket) {
    Completion& completion = completions[count++];
    completion = Completion{};
    completion.operation = operation;
    completion.socket = socket;
    return completion;
  }
};

EpollPort::EpollPort(const PortOptions& options) : options_(options), events_(kBatchCompletions) {}

EpollPort::~EpollPort() {
  assert(first_result_ == nullptr && "results were never handed out");
  if (epoll_ >= 0) ::close(epoll_);
  if (wake_ >= 0) ::close(wake_);
  while (free_gathers_ != nullptr) delete std::exchange(free_gathers_, free_gathers_->next);
}

EpollPort::Stream& EpollPort::StreamOf(const Socket& socket) {
  return *static_cast<Stream*>(socket.port_data);
}

Error EpollPort::Open() {
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return ErrorFromErrno(errno);
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_ < 0) return ErrorFromErrno(errno);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = nullptr;
  if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event) != 0) return ErrorFromErrno(errno);
  return {};
}

Error EpollPort::Accept(Socket& listener) {
  const Error error = CheckListensPosix(listener.handle);
  if (error) return error;
  auto* stream = new (std::nothrow) Stream;
  if (stream == nullptr) return ErrorFromErrno(ENOMEM);
  stream->socket = &listener;
  stream->Join(&first_open_);
  listener.state = kReceiving | kListener;
  listener.interest = 0;
  listener.port_data = stream;
  CountAccepting(listener);
  Watch(listener);
  return {};
}

void EpollPort::CountAccepting(const Socket& socket) {
  const bool accepting =
      (socket.state & (kListener | kReceiving | kPaused)) == (kListener | kReceiving);
  if (std::exchange(StreamOf(socket).counted, accepting) == accepting) return;
  accepting_.fetch_add(accepting ? 1 : -1, std::memory_order_relaxed);
}

Error EpollPort::Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) {
  const Error error = EndpointsPosix(handle, *local, local, remote);
  if (error) return error;
  auto* stream = new (std::nothrow) Stream;
  if (stream == nullptr) return ErrorFromErrno(ENOMEM);
  stream->socket = &socket;
  stream->Join(&first_open_);
  socket = Socket{};
  socket.handle = handle;
  socket.port_data = stream;
  return {};
}

void EpollPort::Receive(Socket& socket) {
  socket.state |= kReceiving;
  Watch(socket);
}

void EpollPort::Pause(Socket& socket) {
  // The system goes on watching: it is told otherwise only when an event comes that nobody
  // wants, so that a short pause costs nothing.
  socket.state |= kPaused;
  CountAccepting(socket);
}

void EpollPort::Resume(Socket& socket) {
  if ((socket.state & kPaused) == 0) return;
  socket.state &= static_cast<std::uint8_t>(~kPaused);
  if ((socket.state & kReceiving) == 0) return;
  CountAccepting(socket);
  Watch(socket);
}

void EpollPort::Send(Socket& socket, const Piece* pieces, std::size_t count) {
  Stream& stream = StreamOf(socket);
  if (TrySend(socket, pieces, count)) {
    AddResult(stream, kSendEnded);
    return;
  }
  if (count > 1) {
    stream.gather = free_gathers_ != nullptr ? std::exchange(free_gathers_, free_gathers_->next)
                                             : new (std::nothrow) Gather;
  }
  if (stream.gather != nullptr) {
    stream.gather->count = count;
    std::copy_n(pieces, count, stream.gather->pieces);
  } else {
    // Without memory for the rest of them, the first piece is a short send.
    stream.piece = *pieces;
  }
  socket.state |= kSending;
  Watch(socket);
}

void EpollPort::ShutdownSend(Socket& socket) {
  socket.state |= kSendShut;
  ::shutdown(Descriptor(socket), SHUT_WR);
}

void EpollPort::Cancel(Socket& socket) {
  const Error cancelled{ErrorKind::kCancelled, ECANCELED};
  EndReceive(socket, cancelled);
  EndSend(socket, cancelled);
}

// Without a completion of the system's: cancelled, or it cannot be served.
void EpollPort::EndReceive(Socket& socket, Error error) {
  if ((socket.state & kReceiving) == 0) return;
  socket.state &= static_cast<std::uint8_t>(~kReceiving);
  CountAccepting(socket);
  StreamOf(socket).receive_error = error;
  AddResult(StreamOf(socket), kReceiveEnded);
}

void EpollPort::EndSend(Socket& socket, Error error) {
  if ((socket.state & kSending) == 0) return;
  ForgetSend(socket);
  StreamOf(socket).sent = 0;
  StreamOf(socket).send_error = error;
  AddResult(StreamOf(socket), kSendEnded);
}

// It no longer waits.
void EpollPort::ForgetSend(Socket& socket) {
  socket.state &= static_cast<std::uint8_t>(~kSending);
  Gather* const gather = std::exchange(StreamOf(socket).gather, nullptr);
  if (gather != nullptr) gather->next = std::exchange(free_gathers_, gather);
}

void EpollPort::AddResult(Stream& stream, std::uint8_t result) {
  const bool listed = stream.results != 0;
  stream.results |= result;
  if (listed) return;
  stream.next = nullptr;
  if (first_result_ == nullptr) {
    first_result_ = &stream;
  } else {
    last_result_->next = &stream;
  }
  last_result_ = &stream;
}

void EpollPort::Close(Socket& socket, bool reset) {
  auto* const stream = static_cast<Stream*>(std::exchange(socket.port_data, nullptr));
  stream->Leave();
  Unwatch(socket);
  for (std::size_t i = next_event_; i < event_count_; ++i) {
    // Its memory may be gone, or be another socket's, before this event is looked at.
    if (events_[i].data.ptr == &socket) events_[i].events = 0;
  }
  assert(stream->results == 0 && "closed before its operations ended");
  delete stream;
  const NativeSocket handle = std::exchange(socket.handle, kNoSocket);
  if ((socket.state & kListener) != 0) return;  // others may accept on it
  if (reset) {
    ClosePosix(handle, true);
  } else {
    CloseInOrderPosix(handle, options_.close_timeout);
  }
}

void EpollPort::Discard(NativeSocket handle, bool reset) { ClosePosix(handle, reset); }

bool EpollPort::ReceiveAtHand(Socket& socket, std::uint64_t seen) {
  return socket.next_sequence != seen || (socket.state & kReceiving) == 0 ||
         ReadyPosix(socket.handle, POLLIN) != 0;
}

bool EpollPort::SendAtHand(Socket& socket) {
  return (socket.state & kSending) == 0 || ReadyPosix(socket.handle, POLLOUT) != 0;
}

std::size_t EpollPort::Unacknowledged(Socket& socket) {
  return UnacknowledgedPosix(socket.handle, (socket.state & kSendShut) != 0);
}

void EpollPort::Post(Posting& posting) {
  if (!posted_.Push(posting)) return;
  const std::uint64_t one = 1;
  // It cannot fail: the counter would have to overflow.
  [[maybe_unused]] const auto written = ::write(wake_, &one, sizeof(one));
}

std::size_t EpollPort::Wait(Completion* completions, std::size_t capacity, std::size_t max_bytes,
                            TimePoint deadline) {
  Batch batch{completions, capacity, max_bytes};
  // What is at hand leaves room for what the system has: or what posts all the time could keep the
  // sockets from being looked at.
  TakeAtHand(batch, capacity / 2);
  const bool at_hand = first_result_ != nullptr || !posted_.empty() || report_broken_;
  if (next_event_ == event_count_) PollSystem(deadline, batch.count == 0 && !at_hand);
  HandleEvents(batch);
  TakeAtHand(batch, capacity);
  if (block_ != nullptr) {
    std::exchange(block_, nullptr)->DropReference();
    used_ = 0;
  }
  return batch.count;
}

// Postings and results, turn about, until the batch has `limit` entries.
void EpollPort::TakeAtHand(Batch& batch, std::size_t limit) {
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
    if (first_result_ != nullptr && batch.count < limit) {
      TakeResult(*first_result_, batch);
      found = true;
    }
  }
}

// One, of the first stream in the list.
void EpollPort::TakeResult(Stream& stream, Batch& batch) {
  Socket& socket = *stream.socket;
  if ((stream.results & kAcceptFailed) != 0) {
    stream.results &= static_cast<std::uint8_t>(~kAcceptFailed);
    Completion& completion = batch.Add(Operation::kAccept, &socket);
    completion.last = false;
    completion.error = stream.send_error;
  } else if ((stream.results & kSendEnded) != 0) {
    stream.results &= static_cast<std::uint8_t>(~kSendEnded);
    Completion& completion = batch.Add(Operation::kSend, &socket);
    completion.error = stream.send_error;
    completion.bytes = stream.sent;
  } else {
    stream.results &= static_cast<std::uint8_t>(~kReceiveEnded);
    if ((socket.state & kListener) != 0) {
      batch.Add(Operation::kAccept, &socket).error = stream.receive_error;
    } else {
      batch.Add(ReceiveEnded(socket, stream.receive_error));
    }
  }
  if (stream.results == 0) first_result_ = stream.next;
}

void EpollPort::PollSystem(TimePoint deadline, bool may_sleep) {
  int timeout = 0;
  if (may_sleep) timeout = MillisecondsUntil(deadline);
  if (timeout != 0 && !posted_.PrepareToSleep()) timeout = 0;
  next_event_ = 0;
  event_count_ = 0;
  if (broken_) {
    if (timeout != 0) SleepUntilWritten(wake_, timeout);
  } else {
    const int found =
        ::epoll_wait(epoll_, events_.data(), static_cast<int>(events_.size()), timeout);
    if (found > 0) event_count_ = static_cast<std::size_t>(found);
    // An interruption by a signal is a wake-up with nothing to tell.
    if (found < 0 && errno != EINTR) Break(errno);
  }
  if (timeout != 0) posted_.Awake();
}

// The system lets this port wait or watch no more, and never will (R11).
void EpollPort::Break(int error_number) {
  if (broken_) return;
  broken_ = ErrorFromErrno(error_number);
  report_broken_ = true;
  next_event_ = event_count_ = 0;
  for (Stream* stream = first_open_; stream != nullptr; stream = stream->next_open) {
    EndReceive(*stream->socket, broken_);
    EndSend(*stream->socket, broken_);
  }
}

void EpollPort::HandleEvents(Batch& batch) {
  while (next_event_ < event_count_ && !batch.full() && batch.wants_bytes() && !batch.no_memory) {
    const epoll_event event = events_[next_event_++];
    if (event.data.ptr == nullptr || event.events == 0) continue;
    auto& socket = *static_cast<Socket*>(event.data.ptr);
    const std::uint8_t wanted = Wanted(socket);
    const std::uint32_t broken = event.events & (EPOLLERR | EPOLLHUP);
    const bool in = (wanted & kWatchIn) != 0 && ((event.events & EPOLLIN) != 0 || broken != 0);
    const bool out = (wanted & kWatchOut) != 0 && ((event.events & EPOLLOUT) != 0 || broken != 0);
    if (out) FinishSend(socket, batch);
    if (in && !batch.full()) {
      if ((socket.state & kListener) != 0) {
        AcceptSome(socket, batch);
      } else {
        ReceiveOnce(socket, batch);
      }
    }
    if (in || out) continue;
    if ((wanted & kWatchBroken) != 0 && (event.events & EPOLLERR) != 0) {
      // The connection broke while it was paused.
      EndReceive(socket, TakeErrorPosix(socket.handle));
      socket.state |= kBroken;
    }
    // A level-triggered event that nobody wants would come again and again.
    if (broken != 0) {
      Unwatch(socket);
    } else {
      Watch(socket);
    }
  }
}

void EpollPort::AcceptSome(Socket& listener, Batch& batch) {
  for (int i = 0; i < options_.max_accepts && !batch.full(); ++i) {
    const AcceptStep step = AcceptPosix(listener, options_.gate, &batch.completions[batch.count]);
    if (step == AcceptStep::kOne || step == AcceptStep::kTrouble) ++batch.count;
    if (step == AcceptStep::kTrouble || step == AcceptStep::kFull) {
      Pause(listener);
      Watch(listener);
    }
    if (step != AcceptStep::kOne) return;
  }
}

bool EpollPort::RoomToReceive(Batch& batch) {
  // A block with less than half of its room left would cut large messages into small receives.
  if (block_ != nullptr && block_->capacity() - used_ < block_->capacity() / 2) {
    std::exchange(block_, nullptr)->DropReference();
  }
  if (block_ == nullptr) {
    block_ = options_.pool->Take();
    used_ = 0;
  }
  if (block_ == nullptr) {
    // No memory: the sockets stay ready, and asking again at once would only burn the processor.
    batch.no_memory = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return false;
  }
  return true;
}

void EpollPort::ReceiveOnce(Socket& socket, Batch& batch) {
  if (!RoomToReceive(batch)) return;
  const std::size_t budget = batch.bytes == 0 ? block_->capacity() : batch.max_bytes - batch.bytes;
  const std::size_t room = std::min(block_->capacity() - used_, budget);
  ssize_t received = 0;
  do {
    received = ::recv(Descriptor(socket), block_->data() + used_, room, 0);
  } while (received < 0 && errno == EINTR);
  if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
  if (received <= 0) {
    Error error = ErrorFromErrno(errno);
    if (received == 0) {
      error = (socket.state & kBroken) != 0 ? Error{ErrorKind::kReset, ECONNRESET}
                                            : Error{ErrorKind::kEndOfStream, 0};
    }
    socket.state &= static_cast<std::uint8_t>(~kReceiving);
    batch.Add(ReceiveEnded(socket, error));
    return;
  }
  const auto size = static_cast<std::size_t>(received);
  Completion& completion = batch.Add(Operation::kReceive, &socket);
  completion.last = false;
  completion.sequence = socket.next_sequence++;
  completion.buffer = block_->Slice(used_, size);
  used_ += size;
  batch.bytes += size;
}

void EpollPort::FinishSend(Socket& socket, Batch& batch) {
  Stream& stream = StreamOf(socket);
  const Gather* const gather = stream.gather;
  const bool done = gather != nullptr ? TrySend(socket, gather->pieces, gather->count)
                                      : TrySend(socket, &stream.piece, 1);
  if (!done) return;
  ForgetSend(socket);
  Completion& completion = batch.Add(Operation::kSend, &socket);
  completion.error = stream.send_error;
  completion.bytes = stream.sent;
}

// Leaves what came of it in the stream; false when it would block.
bool EpollPort::TrySend(Socket& socket, const Piece* pieces, std::size_t count) {
  static_assert(sizeof(Piece) == sizeof(iovec) &&
                offsetof(Piece, size) == offsetof(iovec, iov_len));
  ssize_t sent = 0;
  do {
    if (count == 1) {
      sent = ::send(Descriptor(socket), pieces->data, pieces->size, MSG_NOSIGNAL);
    } else {
      msghdr message{};
      message.msg_iov = reinterpret_cast<iovec*>(const_cast<Piece*>(pieces));
      message.msg_iovlen = count;
      sent = ::sendmsg(Descriptor(socket), &message, MSG_NOSIGNAL);
    }
  } while (sent < 0 && errno == EINTR);
  if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  Stream& stream = StreamOf(socket);
  if (sent < 0) {
    stream.sent = 0;
    stream.send_error = ErrorFromErrno(errno);
    socket.state |= kBroken;
  } else {
    stream.sent = static_cast<std::size_t>(sent);
    stream.send_error = {};
  }
  return true;
}

// Tells the system what the socket waits for, if it does not know yet.
void EpollPort::Watch(Socket& socket) {
  if (broken_) {
    EndReceive(socket, broken_);
    EndSend(socket, broken_);
    return;
  }
  const std::uint8_t wanted = Wanted(socket);
  const std::uint8_t known = socket.interest & (kWatchIn | kWatchOut | kWatchBroken);
  if (wanted == known && (socket.interest & kRegistered) != 0 && wanted != 0) return;
  if (wanted == 0) {
    // Not even errors: epoll would report them for ever.
    Unwatch(socket);
    return;
  }
  epoll_event event{};
  event.events =
      ((wanted & kWatchIn) != 0 ? EPOLLIN : 0U) | ((wanted & kWatchOut) != 0 ? EPOLLOUT : 0U);
  event.data.ptr = &socket;
  const int what = (socket.interest & kRegistered) != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (::epoll_ctl(epoll_, what, Descriptor(socket), &event) != 0) {
    const Error error = ErrorFromErrno(errno);
    if (error.code != ENOMEM && error.code != ENOSPC) {
      Break(error.code);
      return;
    }
    // No memory, or the user's limit of watches: the socket cannot be served.
    if ((socket.state & kListener) != 0) {
      Pause(socket);
      StreamOf(socket).send_error = {ErrorKind::kOutOfResources, error.code};
      AddResult(StreamOf(socket), kAcceptFailed);
      return;
    }
    EndReceive(socket, error);
    EndSend(socket, error);
    return;
  }
  socket.interest = wanted | kRegistered;
}

void EpollPort::Unwatch(Socket& socket) {
  if ((socket.interest & kRegistered) == 0) return;
  socket.interest = 0;
  // Explicitly, although close would do it: a forked child may hold the same open socket, and
  // then epoll would go on reporting it after our close.
  if (::epoll_ctl(epoll_, EPOLL_CTL_DEL, Descriptor(socket), nullptr) != 0) Break(errno);
}

namespace {

std::string EpollAvailable() { return ""; }

std::unique_ptr<CompletionPort> CreateEpollPort(const PortOptions& options) {
  return std::make_unique<EpollPort>(options);
}

}  // namespace

constinit const PortKind kEpollPortKind = {"epoll", &EpollAvailable, &CreateEpollPort, &ListenPosix,
                                           &CloseListenerPosix};

}  // namespace iocp
