#include "port/iocp/iocp_port.h"

#include <algorithm>
#include <cassert>
#include <memory>
#include <new>

#include "port/common/deadline.h"
#include "port/common/system_net.h"

namespace iocp {
namespace {

// The completion keys of the packets in the system's queue.
constexpr ULONG_PTR kKeyOperation = 0;
constexpr ULONG_PTR kKeyWake = 1;

// MillisecondsUntil gives -1 where there is no deadline.
static_assert(INFINITE == static_cast<DWORD>(-1));

}  // namespace

IocpPort::IocpPort(const PortOptions& options) : options_(options) {
  open_error_ = OpenNetwork();
  if (open_error_) return;
  // 0: as many threads run at once as there are processors; one that blocks lets another run.
  port_ = ::CreateIoCompletionPort(INVALID_HANDLE_VALUE, nullptr, 0, 0);
  if (port_ == nullptr) open_error_ = ErrorFromCode(static_cast<int>(::GetLastError()));
}

IocpPort::~IocpPort() {
  assert(results_.empty() && "results were never handed out");
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

// The addresses that the accept reported, or else the system's: another port of this kind may have
// accepted the socket.
Error IocpPort::EndpointsOf(NativeSocket handle, Endpoints* endpoints) {
  {
    const MutexLock lock(accepted_lock_);
    const auto found = accepted_.find(handle);
    if (found != accepted_.end()) {
      *endpoints = found->second;
      return {};
    }
  }
  return ReadEndpoints(handle, Address{}, &endpoints->local, &endpoints->remote);
}

Error IocpPort::Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) {
  const auto native = static_cast<SOCKET>(handle);
  Endpoints endpoints;
  Error error = EndpointsOf(handle, &endpoints);
  if (!error) error = ConfigureWindows(handle, options_.no_delay, options_.keepalive);
  if (error) return error;
  if (::CreateIoCompletionPort(reinterpret_cast<HANDLE>(native), port_, kKeyOperation, 0) ==
      nullptr) {
    return ErrorFromCode(static_cast<int>(::GetLastError()));
  }
  std::unique_ptr<IocpChannel> channel;
  try {
    const auto reads = static_cast<std::size_t>(std::max(options_.initial_reads, 1));
    channel = std::make_unique<IocpChannel>(socket, reads);
  } catch (const std::bad_alloc&) {
    return ErrorFromCode(WSA_NOT_ENOUGH_MEMORY);
  }
  if (skips_packets_.load(std::memory_order_relaxed) &&
      !::SetFileCompletionNotificationModes(
          reinterpret_cast<HANDLE>(native),
          FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE)) {
    return ErrorFromCode(static_cast<int>(::GetLastError()));
  }
  {
    const MutexLock lock(accepted_lock_);
    accepted_.erase(handle);
  }
  socket = Socket{};
  socket.handle = handle;
  socket.port_data = channel.release();
  *local = endpoints.local;
  *remote = endpoints.remote;
  return {};
}

void IocpPort::Discard(NativeSocket handle, bool reset) {
  {
    const MutexLock lock(accepted_lock_);
    accepted_.erase(handle);
  }
  CloseSocket(handle, reset);
}

// ---- The way in from other threads.

void IocpPort::Post(Posting& posting) {
  {
    const MutexLock lock(at_hand_lock_);
    postings_.Push(posting);
    at_hand_.fetch_add(1, std::memory_order_seq_cst);
  }
  Wake();
}

// Keeps a result that has no packet, or one whose packet Wait had no room for.
void IocpPort::PushResult(IocpOperation& operation, int code, DWORD bytes) {
  operation.code = code;
  operation.bytes = bytes;
  const MutexLock lock(at_hand_lock_);
  results_.Push(operation);
  at_hand_.fetch_add(1, std::memory_order_seq_cst);
}

// Wakes a worker if one sleeps and none is being woken. Either this sees the sleeper, or the
// sleeper, which counts itself first, sees the results and postings at hand.
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
  // Half of the batch is left for the system's packets. Otherwise somebody who posts all the time
  // could keep the sockets from being looked at.
  TakeAtHand(batch, std::max<std::size_t>(capacity / 2, 1));
  if (!batch.full()) PollSystem(batch, deadline, batch.count == 0);
  TakeAtHand(batch, capacity);
  // While this worker is busy with hooks, another can take what had no room.
  if (at_hand_.load(std::memory_order_seq_cst) != 0) Wake();
  return batch.count;
}

// Adds postings and results, in turns, until the batch has `limit` entries. The next Wait takes
// what comes meanwhile: a read that finds no memory for its bytes is at hand again at once.
void IocpPort::TakeAtHand(Batch& batch, std::size_t limit) {
  // In one order with `waking_`: who found that still set has counted here before, see Wake.
  std::size_t left = at_hand_.load(std::memory_order_seq_cst);
  for (bool found = true; found && left != 0 && batch.count < limit; --left) {
    found = TakePosting(batch);
    if (batch.count < limit && TakeResult(batch)) found = true;
  }
}

bool IocpPort::HasRoomFor(const IocpOperation& operation, DWORD bytes, const Batch& batch) {
  if (batch.full()) return false;
  return operation.kind != IocpOperation::Kind::kRead || batch.HasRoomFor(bytes);
}

bool IocpPort::TakePosting(Batch& batch) {
  Posting* posting = nullptr;
  {
    const MutexLock lock(at_hand_lock_);
    posting = postings_.Pop();
    if (posting == nullptr) return false;
    at_hand_.fetch_sub(1, std::memory_order_relaxed);
  }
  batch.Add(Operation::kPost, nullptr).posting = posting;
  return true;
}

bool IocpPort::TakeResult(Batch& batch) {
  IocpOperation* operation = nullptr;
  {
    const MutexLock lock(at_hand_lock_);
    operation = results_.first();
    if (operation == nullptr || !HasRoomFor(*operation, operation->bytes, batch)) return false;
    results_.Pop();
    at_hand_.fetch_sub(1, std::memory_order_relaxed);
  }
  Complete(*operation, operation->code, operation->bytes, batch);
  return true;
}

void IocpPort::PollSystem(Batch& batch, TimePoint deadline, bool may_sleep) {
  OVERLAPPED_ENTRY entries[kBatchCompletions];
  const auto room = static_cast<ULONG>(std::min(batch.capacity - batch.count, kBatchCompletions));
  DWORD timeout = may_sleep ? static_cast<DWORD>(MillisecondsUntil(deadline)) : 0;
  const bool sleeps = timeout != 0;
  if (sleeps) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (at_hand_.load(std::memory_order_seq_cst) != 0) timeout = 0;
  }
  ULONG count = 0;
  const BOOL good = ::GetQueuedCompletionStatusEx(port_, entries, room, &count, timeout, FALSE);
  if (sleeps) sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  // Nothing came in time. Nothing else can go wrong with a port that is open.
  if (!good) return;
  for (ULONG i = 0; i < count; ++i) HandleEntry(entries[i], batch);
}

void IocpPort::HandleEntry(const OVERLAPPED_ENTRY& entry, Batch& batch) {
  if (entry.lpCompletionKey == kKeyWake) {
    // This is before the results at hand are looked at: another packet reports what comes later.
    waking_.store(false, std::memory_order_seq_cst);
    return;
  }
  if (entry.lpOverlapped == nullptr) {
    OnClientFoundNoAccept();
    return;
  }
  IocpOperation& operation = *IocpOperation::Of(entry.lpOverlapped);
  const int code = ResultCode(operation);
  const DWORD bytes = entry.dwNumberOfBytesTransferred;
  if (HasRoomFor(operation, bytes, batch)) {
    Complete(operation, code, bytes, batch);
  } else {
    PushResult(operation, code, bytes);
  }
}

// Winsock's code for how the operation ended; 0 for success.
int IocpPort::ResultCode(IocpOperation& operation) {
  // This is an NTSTATUS. Only Winsock knows what it means for a socket.
  if (static_cast<LONG>(operation.overlapped.Internal) >= 0) return 0;
  const Socket& socket = operation.kind == IocpOperation::Kind::kAccept
                             ? static_cast<IocpAccept&>(operation).listener.socket
                             : static_cast<IocpChannelOperation&>(operation).channel.socket;
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
      CompleteReadEnd(static_cast<IocpChannelOperation&>(operation).channel, batch);
      return;
    case IocpOperation::Kind::kReadsDue:
      return;
    case IocpOperation::Kind::kSend:
      CompleteSend(static_cast<IocpChannelOperation&>(operation).channel, code, bytes, batch);
      return;
  }
}

namespace {

std::string IocpAvailable() {
  const Error error = OpenNetwork();
  if (!error) return "";
  return "Winsock could not be started (error " + std::to_string(error.code) + ")";
}

std::unique_ptr<CompletionPort> CreateIocpPort(const PortOptions& options) {
  return std::make_unique<IocpPort>(options);
}

}  // namespace

constinit const PortKind kIocpPortKind = {"iocp", &IocpAvailable, &CreateIocpPort, &Listen,
                                          &CloseListener};

}  // namespace iocp
