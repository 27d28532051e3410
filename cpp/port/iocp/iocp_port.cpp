#include "port/iocp/iocp_port.h"

#include <algorithm>
#include <cassert>
#include <memory>
#include <new>

#include "port/iocp/iocp_batch.h"

namespace iocp {
namespace {

// The keys of what is in the system's queue.
constexpr ULONG_PTR kKeyOperation = 0;
constexpr ULONG_PTR kKeyWake = 1;

DWORD MillisecondsUntil(TimePoint deadline) {
  if (deadline == TimePoint::max()) return INFINITE;
  const TimePoint now = std::chrono::steady_clock::now();
  // Compared, not subtracted: TimePoint::min() stands for a deadline that has long passed.
  if (deadline <= now) return 0;
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<DWORD>(std::min<std::int64_t>(milliseconds, 3'600'000));
}

}  // namespace

IocpPort::IocpPort(const PortOptions& options) : options_(options) {
  open_error_ = OpenWinsock();
  if (open_error_) return;
  // 0: as many threads run at once as there are processors; one that blocks lets another run.
  port_ = ::CreateIoCompletionPort(INVALID_HANDLE_VALUE, nullptr, 0, 0);
  if (port_ == nullptr) open_error_ = ErrorFromWindows(static_cast<int>(::GetLastError()));
}

IocpPort::~IocpPort() {
  assert(first_result_ == nullptr && "results were never handed out");
  assert(first_listener_ == nullptr && "a listener was never closed");
  if (port_ != nullptr) ::CloseHandle(port_);
}

// ---- Sockets of either kind.

void IocpPort::KeepEndpoints(NativeSocket handle, const Endpoints& endpoints) {
  const MutexLock lock(accepted_lock_);
  try {
    accepted_[handle] = endpoints;
  } catch (const std::bad_alloc&) {
    // The system knows them too.
  }
}

// What the accept told, or else the system: the socket may come from another port of this kind.
Error IocpPort::EndpointsOf(NativeSocket handle, Endpoints* endpoints) {
  {
    const MutexLock lock(accepted_lock_);
    const auto found = accepted_.find(handle);
    if (found != accepted_.end()) {
      *endpoints = found->second;
      return {};
    }
  }
  const auto native = static_cast<SOCKET>(handle);
  sockaddr_storage local{};
  sockaddr_storage remote{};
  int local_length = sizeof(local);
  int remote_length = sizeof(remote);
  if (::getsockname(native, reinterpret_cast<sockaddr*>(&local), &local_length) != 0 ||
      ::getpeername(native, reinterpret_cast<sockaddr*>(&remote), &remote_length) != 0) {
    return ErrorFromWindows(::WSAGetLastError());
  }
  *endpoints = {AddressFromWindows(reinterpret_cast<const sockaddr*>(&local), local_length),
                AddressFromWindows(reinterpret_cast<const sockaddr*>(&remote), remote_length)};
  return {};
}

Error IocpPort::Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) {
  const auto native = static_cast<SOCKET>(handle);
  Endpoints endpoints;
  Error error = EndpointsOf(handle, &endpoints);
  if (!error) error = ConfigureWindows(native, options_.no_delay, options_.keepalive);
  if (error) return error;
  if (::CreateIoCompletionPort(reinterpret_cast<HANDLE>(native), port_, kKeyOperation, 0) ==
      nullptr) {
    return ErrorFromWindows(static_cast<int>(::GetLastError()));
  }
  std::unique_ptr<IocpStream> stream;
  try {
    const auto reads = static_cast<std::size_t>(std::max(options_.initial_reads, 1));
    stream = std::make_unique<IocpStream>(socket, reads);
  } catch (const std::bad_alloc&) {
    return ErrorFromWindows(WSA_NOT_ENOUGH_MEMORY);
  }
  if (skips_packets_.load(std::memory_order_relaxed) &&
      !::SetFileCompletionNotificationModes(
          reinterpret_cast<HANDLE>(native),
          FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE)) {
    return ErrorFromWindows(static_cast<int>(::GetLastError()));
  }
  {
    const MutexLock lock(accepted_lock_);
    accepted_.erase(handle);
  }
  socket = Socket{};
  socket.handle = handle;
  socket.port_data = stream.release();
  *local = endpoints.local;
  *remote = endpoints.remote;
  return {};
}

void IocpPort::Discard(NativeSocket handle, bool reset) {
  {
    const MutexLock lock(accepted_lock_);
    accepted_.erase(handle);
  }
  CloseWindows(handle, reset);
}

// ---- The way in from other threads.

void IocpPort::Post(Posting& posting) {
  posting.next = nullptr;
  {
    const MutexLock lock(at_hand_lock_);
    if (first_posting_ == nullptr) {
      first_posting_ = &posting;
    } else {
      last_posting_->next = &posting;
    }
    last_posting_ = &posting;
    at_hand_.fetch_add(1, std::memory_order_seq_cst);
  }
  Wake();
}

// For a result that is known without a packet, or of a packet that Wait had no room for.
void IocpPort::PushResult(IocpOperation& operation, int code, DWORD bytes) {
  operation.code = code;
  operation.bytes = bytes;
  operation.next = nullptr;
  const MutexLock lock(at_hand_lock_);
  if (first_result_ == nullptr) {
    first_result_ = &operation;
  } else {
    last_result_->next = &operation;
  }
  last_result_ = &operation;
  at_hand_.fetch_add(1, std::memory_order_seq_cst);
}

// Wakes a worker if one sleeps and none is being woken. Either this sees the sleeper, or the
// sleeper, which counts itself first, sees what is at hand.
void IocpPort::Wake() {
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  if (waking_.exchange(true, std::memory_order_seq_cst)) return;
  // It fails only while the system is out of memory for packets, and posting cannot fail (R5).
  while (!::PostQueuedCompletionStatus(port_, 0, kKeyWake, nullptr)) ::Sleep(1);
}

// ---- The way out.

std::size_t IocpPort::Wait(Completion* completions, std::size_t capacity, std::size_t max_bytes,
                           TimePoint deadline) {
  Batch batch{completions, capacity, max_bytes};
  PostReadsDue();
  // What is at hand leaves room for what the system has: or what posts all the time could keep the
  // sockets from being looked at.
  TakeAtHand(batch, std::max<std::size_t>(capacity / 2, 1));
  if (!batch.full()) PollSystem(batch, deadline, batch.count == 0);
  TakeAtHand(batch, capacity);
  // While this worker is busy with hooks another can take what had no room.
  if (at_hand_.load(std::memory_order_seq_cst) != 0) Wake();
  return batch.count;
}

// Postings and results, turn about, until the batch has `limit` entries. What comes meanwhile is
// for the next Wait: a read that finds no memory for its bytes is at hand again at once.
void IocpPort::TakeAtHand(Batch& batch, std::size_t limit) {
  // In one order with `waking_`: who found that still set has counted here before, see Wake.
  std::size_t left = at_hand_.load(std::memory_order_seq_cst);
  for (bool found = true; found && left != 0 && batch.count < limit; --left) {
    found = TakePosting(batch);
    if (batch.count < limit && TakeResult(batch)) found = true;
  }
}

bool IocpPort::TakePosting(Batch& batch) {
  Posting* posting = nullptr;
  {
    const MutexLock lock(at_hand_lock_);
    posting = first_posting_;
    if (posting == nullptr) return false;
    first_posting_ = posting->next;
    at_hand_.fetch_sub(1, std::memory_order_relaxed);
  }
  posting->next = nullptr;
  batch.Add(Operation::kPost, nullptr).posting = posting;
  return true;
}

bool IocpPort::TakeResult(Batch& batch) {
  IocpOperation* operation = nullptr;
  {
    const MutexLock lock(at_hand_lock_);
    operation = first_result_;
    if (operation == nullptr || !batch.HasRoomFor(*operation, operation->bytes)) return false;
    first_result_ = operation->next;
    at_hand_.fetch_sub(1, std::memory_order_relaxed);
  }
  Complete(*operation, operation->code, operation->bytes, batch);
  return true;
}

void IocpPort::PollSystem(Batch& batch, TimePoint deadline, bool may_sleep) {
  OVERLAPPED_ENTRY entries[kBatchCompletions];
  const auto room = static_cast<ULONG>(std::min(batch.capacity - batch.count, kBatchCompletions));
  DWORD timeout = may_sleep ? MillisecondsUntil(deadline) : 0;
  const bool sleeps = timeout != 0;
  if (sleeps) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (at_hand_.load(std::memory_order_seq_cst) != 0) timeout = 0;
  }
  ULONG count = 0;
  const BOOL good = ::GetQueuedCompletionStatusEx(port_, entries, room, &count, timeout, FALSE);
  if (sleeps) sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  // Nothing came in time: that is all that can go wrong with a port that is open.
  if (!good) return;
  for (ULONG i = 0; i < count; ++i) HandleEntry(entries[i], batch);
}

void IocpPort::HandleEntry(const OVERLAPPED_ENTRY& entry, Batch& batch) {
  if (entry.lpCompletionKey == kKeyWake) {
    // Before what is at hand is looked at: what comes after that is told of by another packet.
    waking_.store(false, std::memory_order_seq_cst);
    return;
  }
  if (entry.lpOverlapped == nullptr) {
    OnClientFoundNoAccept();
    return;
  }
  IocpOperation& operation = *IocpOperation::Of(entry.lpOverlapped);
  const int code = ResultCode(operation);
  if (batch.HasRoomFor(operation, entry.dwNumberOfBytesTransferred)) {
    Complete(operation, code, entry.dwNumberOfBytesTransferred, batch);
  } else {
    PushResult(operation, code, entry.dwNumberOfBytesTransferred);
  }
}

// Winsock's code for how the operation ended; 0 for well.
int IocpPort::ResultCode(IocpOperation& operation) {
  // An NTSTATUS, of which only Winsock knows what it means for a socket.
  if (static_cast<LONG>(operation.overlapped.Internal) >= 0) return 0;
  const Socket& socket = operation.kind == IocpOperation::Kind::kAccept
                             ? static_cast<IocpAccept&>(operation).listener.socket
                             : static_cast<IocpStreamOperation&>(operation).stream.socket;
  DWORD bytes = 0;
  DWORD flags = 0;
  if (::WSAGetOverlappedResult(static_cast<SOCKET>(socket.handle), &operation.overlapped, &bytes,
                               FALSE, &flags))
    return 0;
  return ::WSAGetLastError();
}

void IocpPort::Complete(IocpOperation& operation, int code, DWORD bytes, Batch& batch) {
  switch (operation.kind) {
    case IocpOperation::Kind::kAccept:
      CompleteAccept(static_cast<IocpAccept&>(operation), code, batch);
      return;
    case IocpOperation::Kind::kAcceptEnd:
    case IocpOperation::Kind::kAcceptTrouble:
      CompleteAcceptEnd(operation, code, batch);
      return;
    case IocpOperation::Kind::kRead:
      CompleteRead(static_cast<IocpRead&>(operation), code, bytes, batch);
      return;
    case IocpOperation::Kind::kReadEnd:
      CompleteReadEnd(static_cast<IocpStreamOperation&>(operation).stream, batch);
      return;
    case IocpOperation::Kind::kReadsDue:
      return;
    case IocpOperation::Kind::kSend:
      CompleteSend(static_cast<IocpStreamOperation&>(operation).stream, code, bytes, batch);
      return;
  }
}

namespace {

std::string IocpAvailable() {
  const Error error = OpenWinsock();
  if (!error) return "";
  return "Winsock could not be started (error " + std::to_string(error.code) + ")";
}

std::unique_ptr<CompletionPort> CreateIocpPort(const PortOptions& options) {
  return std::make_unique<IocpPort>(options);
}

}  // namespace

constinit const PortKind kIocpPortKind = {"iocp", &IocpAvailable, &CreateIocpPort, &ListenWindows,
                                          &CloseListenerWindows};

}  // namespace iocp
