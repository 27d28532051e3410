// The Windows port receives and sends.
#include <algorithm>
#include <chrono>
#include <thread>

#include "port/iocp/iocp_port.h"

namespace iocp {
namespace {

// The most that one WSASend is given. It ends only when the peer's window had room for all of it,
// and sends that end show that a peer is slow and not dead.
constexpr std::size_t kMostSent = 256 * 1024;

IocpListener& ListenerOf(Socket& socket) { return *static_cast<IocpListener*>(socket.port_data); }
IocpChannel& ChannelOf(Socket& socket) { return *static_cast<IocpChannel*>(socket.port_data); }

SOCKET Handle(const IocpChannel& channel) { return static_cast<SOCKET>(channel.socket.handle); }

}  // namespace

void IocpPort::Receive(Socket& socket) {
  IocpChannel& channel = ChannelOf(socket);
  const MutexLock lock(channel.lock);
  channel.receiving = true;
  PostReads(channel);
}

// Keeps as many reads with the system as are wanted. Under the channel's lock.
void IocpPort::PostReads(IocpChannel& channel) {
  while (channel.receiving && !channel.paused && !channel.cancelled && !channel.broken() &&
         channel.outstanding() < channel.wanted) {
    Block* const block = options_.initial_reads == 0 ? nullptr : options_.pool->Take();
    // There is no memory, but other reads are under way: the next that ends tries again.
    if (block == nullptr && channel.outstanding() != 0) return;
    IocpRead& read = *channel.idle_reads.back();
    channel.idle_reads.pop_back();
    PostRead(channel, read, block);
    // A read of no bytes must be alone: it has no place in the stream.
    if (block == nullptr) return;
  }
}

// Leaves it to the next Wait to post reads. By then the peer's answer to this turn's sends is often
// there, and a read that ends at once is the cheapest. Under the channel's lock.
void IocpPort::PostReadsLater(IocpChannel& channel) {
  if (std::exchange(channel.due, true)) return;
  const MutexLock lock(at_hand_lock_);
  due_.Push(channel.reads_due);
}

void IocpPort::PostReadsDue() {
  Fifo<IocpOperation, &IocpOperation::next> due;
  {
    const MutexLock lock(at_hand_lock_);
    due.Append(due_);
  }
  while (IocpOperation* const operation = due.Pop()) {
    IocpChannel& channel = static_cast<IocpChannelOperation*>(operation)->channel;
    const MutexLock lock(channel.lock);
    channel.due = false;
    PostReads(channel);
    EndReads(channel, nullptr);
  }
}

// Posts a read into `block`, or without one a read that ends when there are bytes. Under the
// channel's lock.
void IocpPort::PostRead(IocpChannel& channel, IocpRead& read, Block* block) {
  read.overlapped = OVERLAPPED{};
  read.block = block;
  WSABUF buffer{0, nullptr};
  if (block != nullptr) {
    buffer = {static_cast<ULONG>(block->capacity()), block->data()};
    read.sequence = channel.socket.next_sequence++;
    options_.pool->CountPosted(1);
  }
  DWORD bytes = 0;
  DWORD flags = 0;
  const int answer =
      ::WSARecv(Handle(channel), &buffer, 1, &bytes, &flags, &read.overlapped, nullptr);
  const int code = answer == 0 ? 0 : ::WSAGetLastError();
  if (code == WSA_IO_PENDING) return;
  if (code != 0 || skips_packets_.load(std::memory_order_relaxed)) PushResult(read, code, bytes);
}

void IocpPort::CompleteRead(IocpRead& read, int code, DWORD bytes, Batch& batch) {
  IocpChannel& channel = read.channel;
  // Given back without the lock: a block's owner may have to wait for a lock of its own.
  Buffer unused;
  const MutexLock lock(channel.lock);
  Block* block = std::exchange(read.block, nullptr);
  if (block == nullptr && code == 0 && !channel.cancelled) {
    // There are bytes, or the end: now it is worth a buffer.
    if (channel.paused) {
      channel.idle_reads.push_back(&read);
      return;
    }
    block = options_.pool->Take();
    // Without memory the bytes stay where they are. Asking again at once would only burn the
    // processor.
    if (block == nullptr) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    PostRead(channel, read, block);
    return;
  }
  channel.idle_reads.push_back(&read);
  Completion& completion = batch.Add(Operation::kReceive, &channel.socket);
  ++channel.brought;
  completion.last = false;
  if (block == nullptr) {
    completion.sequence = channel.socket.next_sequence++;
    if (code == 0) code = WSA_OPERATION_ABORTED;
  } else {
    options_.pool->CountPosted(-1);
    completion.sequence = read.sequence;
    // Bytes behind the end are no part of the stream.
    if (code == 0 && read.sequence > channel.broken_at) code = WSA_OPERATION_ABORTED;
    channel.wanted = bytes == block->capacity() ? channel.reads.size() : 1;
    if (code == 0 && bytes != 0) {
      batch.bytes += bytes;
      completion.buffer = Buffer(block, block->data(), bytes);
    } else {
      unused = Buffer(block, block->data(), 0);
    }
  }
  if (code == WSA_OPERATION_ABORTED && !channel.cancelled) code = WSAECONNABORTED;
  if (code != 0) completion.error = ErrorFromCode(code);
  if (code == 0 && bytes == 0) {
    completion.error =
        channel.reset ? ErrorFromCode(WSAECONNRESET) : Error{ErrorKind::kEndOfStream, 0};
  }
  if (completion.error) {
    if (!channel.broken()) WithdrawReads(channel);
    channel.broken_at = std::min(channel.broken_at, completion.sequence);
  }
  if (channel.broken() || channel.cancelled) {
    EndReads(channel, &completion);
  } else {
    PostReadsLater(channel);
  }
}

// Ends the receive once no read is with the system and none will be. `last` becomes the last
// completion if it has the highest number; otherwise one more follows. Under the channel's lock.
void IocpPort::EndReads(IocpChannel& channel, Completion* last) {
  if (!channel.receiving || channel.due || channel.outstanding() != 0) return;
  if (!channel.broken() && !channel.cancelled) return;
  channel.receiving = false;
  if (last != nullptr && last->error && last->sequence + 1 == channel.socket.next_sequence) {
    last->last = true;
  } else {
    PushResult(channel.read_end, WSA_OPERATION_ABORTED, 0);
  }
}

// Cancels the reads behind the one that met the end. Most have ended with it, but not every system
// ends them all. Under the channel's lock.
void IocpPort::WithdrawReads(IocpChannel& channel) {
  if (channel.outstanding() == 0) return;
  for (const auto& read : channel.reads) {
    ::CancelIoEx(reinterpret_cast<HANDLE>(channel.socket.handle), &read->overlapped);
  }
}

void IocpPort::CompleteReadEnd(IocpChannel& channel, Batch& batch) {
  const MutexLock lock(channel.lock);
  Completion& completion = batch.Add(Operation::kReceive, &channel.socket);
  ++channel.brought;
  completion.sequence = channel.socket.next_sequence++;
  // Behind the end it reports the same as the reads that were posted behind the end.
  completion.error = ErrorFromCode(channel.cancelled ? WSA_OPERATION_ABORTED : WSAECONNABORTED);
}

void IocpPort::Send(Socket& socket, const Piece* pieces, std::size_t count) {
  IocpChannel& channel = ChannelOf(socket);
  WSABUF buffers[kMaxPieces];
  DWORD used = 0;
  std::size_t room = kMostSent;
  for (std::size_t i = 0; i < count && room != 0; ++i) {
    const std::size_t size = std::min(pieces[i].size, room);
    // WSASend only reads, whatever its declaration says.
    buffers[used++] = {static_cast<ULONG>(size),
                       const_cast<char*>(static_cast<const char*>(pieces[i].data))};
    room -= size;
  }
  channel.send.overlapped = OVERLAPPED{};
  DWORD bytes = 0;
  const int answer =
      ::WSASend(Handle(channel), buffers, used, &bytes, 0, &channel.send.overlapped, nullptr);
  const int code = answer == 0 ? 0 : ::WSAGetLastError();
  if (code == WSA_IO_PENDING) return;
  if (code != 0 || skips_packets_.load(std::memory_order_relaxed)) {
    PushResult(channel.send, code, bytes);
  }
}

// Nobody calls it. A write that is not overlapped needs a non-blocking socket, and under Wine a
// peer that reads slowly then gets its bytes far more slowly still.
std::size_t IocpPort::SendNow(Socket& /*socket*/, const Piece* /*pieces*/, std::size_t /*count*/) {
  return 0;
}

void IocpPort::CompleteSend(IocpChannel& channel, int code, DWORD bytes, Batch& batch) {
  Completion& completion = batch.Add(Operation::kSend, &channel.socket);
  if (code == 0) {
    completion.bytes = bytes;
    return;
  }
  const MutexLock lock(channel.lock);
  if (code == WSA_OPERATION_ABORTED && !channel.cancelled) code = WSAECONNABORTED;
  completion.error = ErrorFromCode(code);
  channel.reset = channel.reset || completion.error.kind == ErrorKind::kReset;
}

void IocpPort::ShutdownSend(Socket& socket) { ::shutdown(Handle(ChannelOf(socket)), SD_SEND); }

// A read is with the system until its result is taken out of a queue, and that is reported under
// the lock. So nothing between the two is missed, whichever worker takes it.
bool IocpPort::ReceiveAtHand(Socket& socket, std::uint64_t seen) {
  IocpChannel& channel = ChannelOf(socket);
  const MutexLock lock(channel.lock);
  if (channel.brought != seen) return true;
  // Nobody has looked since the last read ended. The next Wait will.
  if (channel.due) return true;
  // While the receive is paused no read is posted, so the system has what came.
  u_long size = 0;
  if (channel.paused && ::ioctlsocket(Handle(channel), FIONREAD, &size) == 0 && size != 0) {
    return true;
  }
  return std::any_of(channel.reads.begin(), channel.reads.end(), [&](const auto& read) {
    const bool idle = std::find(channel.idle_reads.begin(), channel.idle_reads.end(), read.get()) !=
                      channel.idle_reads.end();
    return !idle && HasOverlappedIoCompleted(&read->overlapped);
  });
}

bool IocpPort::SendAtHand(Socket& socket) {
  return HasOverlappedIoCompleted(&ChannelOf(socket).send.overlapped);
}

// The system does not say what it still holds of a send that has ended.
std::size_t IocpPort::Unacknowledged(Socket&) { return 0; }

void IocpPort::Pause(Socket& socket) {
  if ((socket.state & kIsListener) != 0) {
    PauseAccepting(ListenerOf(socket));
    return;
  }
  IocpChannel& channel = ChannelOf(socket);
  const MutexLock lock(channel.lock);
  channel.paused = true;
}

void IocpPort::Resume(Socket& socket) {
  if ((socket.state & kIsListener) != 0) {
    ResumeAccepting(ListenerOf(socket));
    return;
  }
  IocpChannel& channel = ChannelOf(socket);
  const MutexLock lock(channel.lock);
  channel.paused = false;
  PostReads(channel);
}

void IocpPort::Cancel(Socket& socket) {
  if ((socket.state & kIsListener) != 0) {
    CancelAccepting(ListenerOf(socket));
    return;
  }
  IocpChannel& channel = ChannelOf(socket);
  const MutexLock lock(channel.lock);
  channel.cancelled = true;
  // It is no error when nothing is with the system.
  ::CancelIoEx(reinterpret_cast<HANDLE>(socket.handle), nullptr);
  EndReads(channel, nullptr);
}

void IocpPort::Close(Socket& socket, bool reset) {
  if ((socket.state & kIsListener) != 0) {
    CloseListener(ListenerOf(socket));
    return;
  }
  CloseSocket(std::exchange(socket.handle, kNoSocket), reset);
  delete &ChannelOf(socket);
}

}  // namespace iocp
