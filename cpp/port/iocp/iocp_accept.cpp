// The Windows port accepts: accepts posted ahead, topped up when a client finds none.
#include <algorithm>
#include <memory>
#include <new>
#include <utility>

#include "port/iocp/iocp_port.h"

namespace iocp {
namespace {

template <typename Function>
bool FindExtension(SOCKET socket, GUID id, Function* function) {
  DWORD bytes = 0;
  return ::WSAIoctl(socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof(id),
                    static_cast<void*>(function), sizeof(*function), &bytes, nullptr, nullptr) == 0;
}

// Whether the sockets of this listener's provider are the system's own handles. Those of a layered
// provider queue packets as they please; see libuv, which looks at the same flag.
bool HasSystemHandles(SOCKET socket) {
  WSAPROTOCOL_INFOW info{};
  int length = sizeof(info);
  return ::getsockopt(socket, SOL_SOCKET, SO_PROTOCOL_INFOW, reinterpret_cast<char*>(&info),
                      &length) == 0 &&
         (info.dwServiceFlags1 & XP1_IFS_HANDLES) != 0;
}

// Waits for the callback, which takes no lock.
void DropSystemObjects(IocpListener& listener) {
  if (listener.arrived_wait != nullptr) {
    ::UnregisterWaitEx(listener.arrived_wait, INVALID_HANDLE_VALUE);
  }
  if (listener.arrived != nullptr) ::CloseHandle(listener.arrived);
}

// On a thread of the system's pool. Should there be no memory for a packet, the next client that
// finds no accept sends another.
void CALLBACK OnArrived(void* context, BOOLEAN /*timed_out*/) {
  auto& listener = *static_cast<IocpListener*>(context);
  listener.client_came.store(true, std::memory_order_relaxed);
  ::PostQueuedCompletionStatus(listener.port, 0, 0, nullptr);
}

}  // namespace

Error IocpPort::Accept(Socket& socket) {
  std::unique_ptr<IocpListener> listener(new (std::nothrow) IocpListener(socket, port_));
  if (listener == nullptr) return ErrorFromCode(WSA_NOT_ENOUGH_MEMORY);
  const Error error = PrepareListener(*listener);
  if (error) {
    DropSystemObjects(*listener);
    return error;
  }
  socket.port_data = listener.get();
  socket.state = kIsListener;
  const MutexLock ports_lock(listeners_lock_);
  listener->next = std::exchange(first_listener_, listener.get());
  const MutexLock lock(listener->lock);
  listener->wanted = options_.gate != nullptr ? 1 : options_.initial_accepts;
  PostAccepts(*listener.release());
  return {};
}

// Connections skip packets, or none does: the first listener decides that for the whole port, and
// all others have to agree with it.
bool IocpPort::SkipsPacketsLike(const IocpListener& listener) {
  const bool skips = HasSystemHandles(static_cast<SOCKET>(listener.socket.handle));
  const MutexLock lock(listeners_lock_);
  if (!std::exchange(listened_, true)) skips_packets_.store(skips, std::memory_order_relaxed);
  return skips || !skips_packets_.load(std::memory_order_relaxed);
}

// Asks the system for all that accepting needs.
Error IocpPort::PrepareListener(IocpListener& listener) {
  const auto handle = static_cast<SOCKET>(listener.socket.handle);
  const auto failure = [](DWORD code) { return ErrorFromCode(static_cast<int>(code)); };
  BOOL listens = FALSE;
  int length = sizeof(listens);
  if (::getsockopt(handle, SOL_SOCKET, SO_ACCEPTCONN, reinterpret_cast<char*>(&listens), &length) !=
      0) {
    return failure(static_cast<DWORD>(::WSAGetLastError()));
  }
  if (!listens) return failure(WSAEINVAL);
  sockaddr_storage address{};
  length = sizeof(address);
  if (::getsockname(handle, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return failure(static_cast<DWORD>(::WSAGetLastError()));
  }
  listener.family = address.ss_family;
  if (!FindExtension(handle, WSAID_GETACCEPTEXSOCKADDRS, &listener.get_addresses) ||
      !FindExtension(handle, WSAID_ACCEPTEX, &listener.accept_ex)) {
    return failure(static_cast<DWORD>(::WSAGetLastError()));
  }
  listener.arrived = ::CreateEventW(nullptr, FALSE, FALSE, nullptr);
  if (listener.arrived == nullptr) return failure(::GetLastError());
  if (::WSAEventSelect(handle, listener.arrived, FD_ACCEPT) != 0) {
    return failure(static_cast<DWORD>(::WSAGetLastError()));
  }
  if (!::RegisterWaitForSingleObject(&listener.arrived_wait, listener.arrived, &OnArrived,
                                     &listener, INFINITE, WT_EXECUTEDEFAULT)) {
    listener.arrived_wait = nullptr;
    return failure(::GetLastError());
  }
  // Last, as a handle belongs to its first port for good, also when something fails behind this.
  if (!SkipsPacketsLike(listener)) return {ErrorKind::kUnsupported, WSAEOPNOTSUPP};
  if (::CreateIoCompletionPort(reinterpret_cast<HANDLE>(handle), port_, 0, 0) == nullptr) {
    return failure(::GetLastError());
  }
  return {};
}

// Posts as many as are wanted. Under the listener's lock.
void IocpPort::PostAccepts(IocpListener& listener) {
  while (!listener.paused && !listener.cancelled &&
         listener.outstanding() < static_cast<std::size_t>(listener.wanted)) {
    if (options_.gate != nullptr && !options_.gate->Enter(listener.socket)) {
      listener.paused = true;
      return;
    }
    int code = WSA_NOT_ENOUGH_MEMORY;
    if (listener.HasIdle()) {
      IocpAccept& accept = *listener.idle.back();
      listener.idle.pop_back();
      code = PostAccept(listener, accept);
      if (code == 0) {
        pending_accepts_.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      if (accept.accepted != INVALID_SOCKET) ::closesocket(accept.accepted);
      accept.accepted = INVALID_SOCKET;
      listener.idle.push_back(&accept);
    }
    if (options_.gate != nullptr) options_.gate->Leave();
    PauseInTrouble(listener, code);
  }
}

// Whatever failed would fail again at once: it is reported like exhaustion, and Resume tries again.
// Under the listener's lock.
void IocpPort::PauseInTrouble(IocpListener& listener, int code) {
  listener.paused = true;
  if (!std::exchange(listener.in_trouble, true)) PushResult(listener.trouble, code, 0);
}

// 0, or why the accept is not with the system.
int IocpPort::PostAccept(IocpListener& listener, IocpAccept& accept) {
  accept.overlapped = OVERLAPPED{};
  accept.accepted = ::WSASocketW(listener.family, SOCK_STREAM, IPPROTO_TCP, nullptr, 0,
                                 WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
  if (accept.accepted == INVALID_SOCKET) return ::WSAGetLastError();
  DWORD bytes = 0;
  // No room for data: a client that says nothing must not hold up the accept.
  if (listener.accept_ex(static_cast<SOCKET>(listener.socket.handle), accept.accepted,
                         accept.addresses, 0, IocpAccept::kAddressRoom, IocpAccept::kAddressRoom,
                         &bytes, &accept.overlapped)) {
    return 0;  // the packet comes nevertheless: a listener never skips it
  }
  const int code = ::WSAGetLastError();
  if (code == ERROR_IO_PENDING) return 0;
  if (code == WSAECONNRESET) {
    // The client that was next has gone: its accept has ended, with a result of its own.
    PushResult(accept, code, 0);
    return 0;
  }
  return code;
}

void IocpPort::CompleteAccept(IocpAccept& accept, int code, Batch& batch) {
  IocpListener& listener = accept.listener;
  const SOCKET accepted = std::exchange(accept.accepted, INVALID_SOCKET);
  pending_accepts_.fetch_sub(1, std::memory_order_relaxed);
  if (code == 0) {
    const auto handle = static_cast<SOCKET>(listener.socket.handle);
    if (::setsockopt(accepted, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT,
                     reinterpret_cast<const char*>(&handle), sizeof(handle)) != 0) {
      code = ::WSAGetLastError();
    }
  }
  Endpoints endpoints;
  if (code == 0) {
    sockaddr* local = nullptr;
    sockaddr* remote = nullptr;
    int local_length = 0;
    int remote_length = 0;
    listener.get_addresses(accept.addresses, 0, IocpAccept::kAddressRoom, IocpAccept::kAddressRoom,
                           &local, &local_length, &remote, &remote_length);
    endpoints = {AddressFrom(local, local_length), AddressFrom(remote, remote_length)};
  } else {
    ::closesocket(accepted);
    if (options_.gate != nullptr) options_.gate->Leave();
  }
  const MutexLock lock(listener.lock);
  listener.idle.push_back(&accept);
  // One that a pause has withdrawn brings nothing, not even when accepting goes on by now.
  if (code != WSA_OPERATION_ABORTED) {
    Completion& completion = batch.Add(Operation::kAccept, &listener.socket);
    completion.last = false;
    if (code == 0) {
      completion.accepted = static_cast<NativeSocket>(accepted);
      KeepEndpoints(completion.accepted, endpoints);
    } else {
      completion.error = {ErrorKind::kClientGone, code};
    }
  }
  PostAccepts(listener);
  EndAccepting(listener);
}

// The last completion, once nothing is with the system any more. Under the listener's lock.
void IocpPort::EndAccepting(IocpListener& listener) {
  if (!listener.cancelled || listener.ended || listener.in_trouble || listener.outstanding() != 0) {
    return;
  }
  listener.ended = true;
  PushResult(listener.end, WSA_OPERATION_ABORTED, 0);
}

void IocpPort::CompleteAcceptEnd(IocpOperation& operation, int code, Batch& batch) {
  IocpListener& listener = static_cast<IocpListenerOperation&>(operation).listener;
  const MutexLock lock(listener.lock);
  Completion& completion = batch.Add(Operation::kAccept, &listener.socket);
  if (operation.kind == IocpOperation::Kind::kAcceptEnd) {
    completion.error = {ErrorKind::kCancelled, code};
    return;
  }
  completion.last = false;
  completion.error = {ErrorKind::kOutOfResources, code};
  listener.in_trouble = false;
  EndAccepting(listener);
}

// A client has come and found no accept: twice as many from now on, up to max_accepts.
void IocpPort::OnClientFoundNoAccept() {
  const MutexLock ports_lock(listeners_lock_);
  for (IocpListener* listener = first_listener_; listener != nullptr; listener = listener->next) {
    if (!listener->client_came.exchange(false, std::memory_order_relaxed)) continue;
    const MutexLock lock(listener->lock);
    WSANETWORKEVENTS events{};
    ::WSAEnumNetworkEvents(static_cast<SOCKET>(listener->socket.handle), nullptr, &events);
    if (options_.gate != nullptr) continue;
    listener->wanted = std::min(2 * listener->wanted, options_.max_accepts);
    PostAccepts(*listener);
  }
}

void IocpPort::PauseAccepting(IocpListener& listener) {
  const MutexLock lock(listener.lock);
  listener.paused = true;
  // Accepts that are posted would go on accepting.
  if (listener.outstanding() != 0) {
    ::CancelIoEx(reinterpret_cast<HANDLE>(listener.socket.handle), nullptr);
  }
}

void IocpPort::ResumeAccepting(IocpListener& listener) {
  const MutexLock lock(listener.lock);
  if (std::exchange(listener.paused, false)) PostAccepts(listener);
}

void IocpPort::CancelAccepting(IocpListener& listener) {
  const MutexLock lock(listener.lock);
  listener.cancelled = true;
  if (listener.outstanding() != 0) {
    ::CancelIoEx(reinterpret_cast<HANDLE>(listener.socket.handle), nullptr);
  }
  EndAccepting(listener);
}

void IocpPort::CloseListener(IocpListener& listener) {
  {
    const MutexLock ports_lock(listeners_lock_);
    IocpListener** place = &first_listener_;
    while (*place != &listener) place = &(*place)->next;
    *place = listener.next;
  }
  ::WSAEventSelect(static_cast<SOCKET>(listener.socket.handle), nullptr, 0);
  DropSystemObjects(listener);
  listener.socket.handle = kNoSocket;
  delete &listener;
}

}  // namespace iocp
