// The Windows port receives and sends.
#include <algorithm>
#include <chrono>
#include <thread>

#include "port/iocp/iocp_port.h"

namespace iocp {
namespace {

// What one WSASend is given at most: it ends only when the peer's window had room for all of it,
// and a slow reader is told from a dead one by sends that end.
constexpr std::size_t kMostSent = 256 * 1024;

IocpListener& ListenerOf(Socket& socket) { return *static_cast<IocpListener*>(socket.port_data); }
IocpStream& StreamOf(Socket& socket) { return *static_cast<IocpStream*>(socket.port_data); }

SOCKET Handle(const IocpStream& stream) { return static_cast<SOCKET>(stream.socket.handle); }

}  // namespace

void IocpPort::Receive(Socket& socket) {
  IocpStream& stream = StreamOf(socket);
  const MutexLock lock(stream.lock);
  stream.receiving = true;
  PostReads(stream);
}

// Keeps as many reads with the system as there are to be. Under the stream's lock.
void IocpPort::PostReads(IocpStream& stream) {
  while (stream.receiving && !stream.paused && !stream.cancelled && !stream.broken() &&
         stream.outstanding() < stream.wanted) {
    Block* const block = options_.initial_reads == 0 ? nullptr : options_.pool->Take();
    // Out of memory with others under way: the next that ends tries again.
    if (block == nullptr && stream.outstanding() != 0) return;
    IocpRead& read = *stream.idle_reads.back();
    stream.idle_reads.pop_back();
    PostRead(stream, read, block);
    // One of no bytes must be alone: it has no place in the stream.
    if (block == nullptr) return;
  }
}

// Not before the next Wait: what the peer answers to this turn's sends is then there already, and a
// read that ends at once is the cheapest. Under the stream's lock.
void IocpPort::PostReadsLater(IocpStream& stream) {
  if (std::exchange(stream.due, true)) return;
  const MutexLock lock(at_hand_lock_);
  due_.Push(stream.reads_due);
}

void IocpPort::PostReadsDue() {
  Fifo<IocpOperation, &IocpOperation::next> due;
  {
    const MutexLock lock(at_hand_lock_);
    due.Append(due_);
  }
  while (IocpOperation* const operation = due.Pop()) {
    IocpStream& stream = static_cast<IocpStreamOperation*>(operation)->stream;
    const MutexLock lock(stream.lock);
    stream.due = false;
    PostReads(stream);
    EndReads(stream, nullptr);
  }
}

// Into `block`, or without one to hear that there is something. Under the stream's lock.
void IocpPort::PostRead(IocpStream& stream, IocpRead& read, Block* block) {
  read.overlapped = OVERLAPPED{};
  read.block = block;
  WSABUF buffer{0, nullptr};
  if (block != nullptr) {
    buffer = {static_cast<ULONG>(block->capacity()), block->data()};
    read.sequence = stream.socket.next_sequence++;
    options_.pool->CountPosted(1);
  }
  DWORD bytes = 0;
  DWORD flags = 0;
  const int answer =
      ::WSARecv(Handle(stream), &buffer, 1, &bytes, &flags, &read.overlapped, nullptr);
  const int code = answer == 0 ? 0 : ::WSAGetLastError();
  if (code == WSA_IO_PENDING) return;
  if (code != 0 || skips_packets_.load(std::memory_order_relaxed)) PushResult(read, code, bytes);
}

void IocpPort::CompleteRead(IocpRead& read, int code, DWORD bytes, Batch& batch) {
  IocpStream& stream = read.stream;
  Buffer unused;  // given back without the lock: a block's owner may have to wait for a lock of its
                  // own
  const MutexLock lock(stream.lock);
  Block* block = std::exchange(read.block, nullptr);
  if (block == nullptr && code == 0 && !stream.cancelled) {
    // There are bytes, or the end: now it is worth a buffer.
    if (stream.paused) {
      stream.idle_reads.push_back(&read);
      return;
    }
    block = options_.pool->Take();
    // No memory: the bytes stay where they are, and asking again at once would only burn the
    // processor.
    if (block == nullptr) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    PostRead(stream, read, block);
    return;
  }
  stream.idle_reads.push_back(&read);
  Completion& completion = batch.Add(Operation::kReceive, &stream.socket);
  ++stream.brought;
  completion.last = false;
  if (block == nullptr) {
    completion.sequence = stream.socket.next_sequence++;
    if (code == 0) code = WSA_OPERATION_ABORTED;
  } else {
    options_.pool->CountPosted(-1);
    completion.sequence = read.sequence;
    // What comes behind the end is no part of the stream.
    if (code == 0 && read.sequence > stream.broken_at) code = WSA_OPERATION_ABORTED;
    stream.wanted = bytes == block->capacity() ? stream.reads.size() : 1;
    if (code == 0 && bytes != 0) {
      batch.bytes += bytes;
      completion.buffer = Buffer(block, block->data(), bytes);
    } else {
      unused = Buffer(block, block->data(), 0);
    }
  }
  if (code == WSA_OPERATION_ABORTED && !stream.cancelled) code = WSAECONNABORTED;
  if (code != 0) completion.error = ErrorFromCode(code);
  if (code == 0 && bytes == 0) {
    completion.error =
        stream.reset ? ErrorFromCode(WSAECONNRESET) : Error{ErrorKind::kEndOfStream, 0};
  }
  if (completion.error) {
    if (!stream.broken()) WithdrawReads(stream);
    stream.broken_at = std::min(stream.broken_at, completion.sequence);
  }
  if (stream.broken() || stream.cancelled) {
    EndReads(stream, &completion);
  } else {
    PostReadsLater(stream);
  }
}

// Once nothing is with the system and nothing will be: the last completion. That is `last`, if it
// is the last in order; else something behind it. Under the stream's lock.
void IocpPort::EndReads(IocpStream& stream, Completion* last) {
  if (!stream.receiving || stream.due || stream.outstanding() != 0) return;
  if (!stream.broken() && !stream.cancelled) return;
  stream.receiving = false;
  if (last != nullptr && last->error && last->sequence + 1 == stream.socket.next_sequence) {
    last->last = true;
  } else {
    PushResult(stream.read_end, WSA_OPERATION_ABORTED, 0);
  }
}

// Those behind the one that met the end: most have ended with it, but not every system ends them
// all. Under the stream's lock.
void IocpPort::WithdrawReads(IocpStream& stream) {
  if (stream.outstanding() == 0) return;
  for (const auto& read : stream.reads) {
    ::CancelIoEx(reinterpret_cast<HANDLE>(stream.socket.handle), &read->overlapped);
  }
}

void IocpPort::CompleteReadEnd(IocpStream& stream, Batch& batch) {
  const MutexLock lock(stream.lock);
  Completion& completion = batch.Add(Operation::kReceive, &stream.socket);
  ++stream.brought;
  completion.sequence = stream.socket.next_sequence++;
  // Behind the end it is no more than those reads are that were posted behind it.
  completion.error = ErrorFromCode(stream.cancelled ? WSA_OPERATION_ABORTED : WSAECONNABORTED);
}

void IocpPort::Send(Socket& socket, const Piece* pieces, std::size_t count) {
  IocpStream& stream = StreamOf(socket);
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
  stream.send.overlapped = OVERLAPPED{};
  DWORD bytes = 0;
  const int answer =
      ::WSASend(Handle(stream), buffers, used, &bytes, 0, &stream.send.overlapped, nullptr);
  const int code = answer == 0 ? 0 : ::WSAGetLastError();
  if (code == WSA_IO_PENDING) return;
  if (code != 0 || skips_packets_.load(std::memory_order_relaxed)) {
    PushResult(stream.send, code, bytes);
  }
}

void IocpPort::CompleteSend(IocpStream& stream, int code, DWORD bytes, Batch& batch) {
  Completion& completion = batch.Add(Operation::kSend, &stream.socket);
  if (code == 0) {
    completion.bytes = bytes;
    return;
  }
  const MutexLock lock(stream.lock);
  if (code == WSA_OPERATION_ABORTED && !stream.cancelled) code = WSAECONNABORTED;
  completion.error = ErrorFromCode(code);
  stream.reset = stream.reset || completion.error.kind == ErrorKind::kReset;
}

void IocpPort::ShutdownSend(Socket& socket) { ::shutdown(Handle(StreamOf(socket)), SD_SEND); }

// A read is with the system until its result is taken out of a queue, and is reported under the
// lock: between the two nothing can be missed, whichever worker does it.
bool IocpPort::ReceiveAtHand(Socket& socket, std::uint64_t seen) {
  IocpStream& stream = StreamOf(socket);
  const MutexLock lock(stream.lock);
  if (stream.brought != seen) return true;
  // Nobody has looked since the last one ended; the next Wait will.
  if (stream.due) return true;
  // Nothing is posted then, so the system has what came.
  u_long size = 0;
  if (stream.paused && ::ioctlsocket(Handle(stream), FIONREAD, &size) == 0 && size != 0) {
    return true;
  }
  return std::any_of(stream.reads.begin(), stream.reads.end(), [&](const auto& read) {
    const bool idle = std::find(stream.idle_reads.begin(), stream.idle_reads.end(), read.get()) !=
                      stream.idle_reads.end();
    return !idle && HasOverlappedIoCompleted(&read->overlapped);
  });
}

bool IocpPort::SendAtHand(Socket& socket) {
  return HasOverlappedIoCompleted(&StreamOf(socket).send.overlapped);
}

// The system does not say what it still holds of a send that has ended.
std::size_t IocpPort::Unacknowledged(Socket&) { return 0; }

void IocpPort::Pause(Socket& socket) {
  if ((socket.state & kIsListener) != 0) {
    PauseAccepting(ListenerOf(socket));
    return;
  }
  IocpStream& stream = StreamOf(socket);
  const MutexLock lock(stream.lock);
  stream.paused = true;
}

void IocpPort::Resume(Socket& socket) {
  if ((socket.state & kIsListener) != 0) {
    ResumeAccepting(ListenerOf(socket));
    return;
  }
  IocpStream& stream = StreamOf(socket);
  const MutexLock lock(stream.lock);
  stream.paused = false;
  PostReads(stream);
}

void IocpPort::Cancel(Socket& socket) {
  if ((socket.state & kIsListener) != 0) {
    CancelAccepting(ListenerOf(socket));
    return;
  }
  IocpStream& stream = StreamOf(socket);
  const MutexLock lock(stream.lock);
  stream.cancelled = true;
  // Nothing with the system is nothing to cancel, and no error.
  ::CancelIoEx(reinterpret_cast<HANDLE>(socket.handle), nullptr);
  EndReads(stream, nullptr);
}

void IocpPort::Close(Socket& socket, bool reset) {
  if ((socket.state & kIsListener) != 0) {
    CloseListener(ListenerOf(socket));
    return;
  }
  CloseSocket(std::exchange(socket.handle, kNoSocket), reset);
  delete &StreamOf(socket);
}

}  // namespace iocp
