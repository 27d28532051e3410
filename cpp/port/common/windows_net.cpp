#include "port/common/windows_net.h"

#include <mstcpip.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <system_error>

namespace iocp {
namespace {

std::string Where(const ListenOptions& options) {
  const bool v6 = options.host.find(':') != std::string::npos;
  const std::string host = v6 ? "[" + options.host + "]" : options.host;
  return host + ":" + std::to_string(options.port);
}

Status Failure(const char* step, const ListenOptions& options, int code,
               const std::string& advice = "") {
  Status status;
  status.problem = Status::Problem::kSystem;
  status.error = ErrorFromWindows(code);
  status.message = std::string(step) + " " + Where(options) + ": " +
                   std::system_category().message(code) + advice;
  return status;
}

const char* BindAdvice(int code) {
  switch (code) {
    case WSAEADDRINUSE:
      return " (another program listens there; choose another port, or 0 for a free one)";
    case WSAEACCES:
      return " (another program holds the port for itself, or Windows has reserved it; choose "
             "another port, or 0 for a free one)";
    case WSAEADDRNOTAVAIL:
      return " (no interface of this machine has that address)";
    default:
      return "";
  }
}

bool SetOption(SOCKET handle, int level, int name, DWORD value) {
  return ::setsockopt(handle, level, name, reinterpret_cast<const char*>(&value), sizeof(value)) ==
         0;
}

ULONG Milliseconds(Duration duration) {
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
  return static_cast<ULONG>(std::clamp<std::int64_t>(milliseconds, 1, 0x7fffffff));
}

// Whether an IPv6 address is "::", however it was written.
bool IsAllOfIPv6(const addrinfo& info) {
  sockaddr_in6 address;
  std::memcpy(&address, info.ai_addr, sizeof(address));
  return IN6_IS_ADDR_UNSPECIFIED(&address.sin6_addr);
}

// The socket options that must be there before bind.
bool Configure(SOCKET handle, const addrinfo& info, const ListenOptions& options) {
  if (!SetOption(handle, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1)) return false;
  if (info.ai_family != AF_INET6) return true;
  const bool dual = options.dual_stack && IsAllOfIPv6(info);
  return SetOption(handle, IPPROTO_IPV6, IPV6_V6ONLY, dual ? 0 : 1);
}

// What listen takes a backlog as. It cuts a plain number to 200; a larger one is asked for with
// SOMAXCONN_HINT, which some headers lack.
int Backlog(int connections) { return connections > 200 ? -connections : connections; }

// One resolved address: socket, options, bind, listen. Ok, or the step that failed.
Status ListenOn(const addrinfo& info, const ListenOptions& options, NativeSocket* listener,
                Address* bound) {
  const SOCKET handle = ::WSASocketW(info.ai_family, SOCK_STREAM, IPPROTO_TCP, nullptr, 0,
                                     WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
  if (handle == INVALID_SOCKET) {
    return Failure("cannot create a socket for", options, ::WSAGetLastError());
  }
  Status status;
  sockaddr_storage storage{};
  int length = sizeof(storage);
  if (!Configure(handle, info, options)) {
    status = Failure("cannot set the socket options for", options, ::WSAGetLastError());
  } else if (::bind(handle, info.ai_addr, static_cast<int>(info.ai_addrlen)) != 0) {
    const int code = ::WSAGetLastError();
    status = Failure("cannot bind to", options, code, BindAdvice(code));
  } else if (::listen(handle, Backlog(options.backlog)) != 0) {
    const int code = ::WSAGetLastError();
    status = Failure("cannot listen on", options, code, BindAdvice(code));
  } else if (::getsockname(handle, reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
    status = Failure("cannot read the bound address of", options, ::WSAGetLastError());
  }
  if (!status.ok()) {
    ::closesocket(handle);
    return status;
  }
  *listener = static_cast<NativeSocket>(handle);
  *bound = AddressFromWindows(reinterpret_cast<const sockaddr*>(&storage), length);
  return status;
}

}  // namespace

std::string Address::Host() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (family == Family::kIPv4) {
    ::inet_ntop(AF_INET, bytes, text, sizeof(text));
  } else if (family == Family::kIPv6) {
    ::inet_ntop(AF_INET6, bytes, text, sizeof(text));
  }
  std::string host = text;
  // Windows writes a zone as its number.
  if (scope != 0) host += '%' + std::to_string(scope);
  return host;
}

Error OpenWinsock() {
  // Never given up: sockets of others in this process may outlive every server.
  static const int code = [] {
    WSADATA data;
    return ::WSAStartup(MAKEWORD(2, 2), &data);
  }();
  return ErrorFromWindows(code);
}

Error ErrorFromWindows(int code) {
  const auto kind = [&] {
    switch (code) {
      case 0:
        return ErrorKind::kNone;
      case WSAECONNRESET:
      case WSAECONNABORTED:  // by this machine's network stack: it gave up, or we did not close it
      case WSAENETRESET:
      case WSAEDISCON:
      case WSAESHUTDOWN:
      case ERROR_NETNAME_DELETED:
      case ERROR_CONNECTION_ABORTED:
      case ERROR_BROKEN_PIPE:
        return ErrorKind::kReset;
      case WSA_OPERATION_ABORTED:
        return ErrorKind::kCancelled;
      case WSAETIMEDOUT:
      case ERROR_SEM_TIMEOUT:
        return ErrorKind::kTimedOut;
      case WSAEMFILE:
      case WSAENOBUFS:
      case WSA_NOT_ENOUGH_MEMORY:
      case ERROR_OUTOFMEMORY:
      case ERROR_NO_SYSTEM_RESOURCES:
      case ERROR_TOO_MANY_OPEN_FILES:
      case ERROR_WORKING_SET_QUOTA:
        return ErrorKind::kOutOfResources;
      case WSAEADDRINUSE:
        return ErrorKind::kAddressInUse;
      case WSAEADDRNOTAVAIL:
      case WSAHOST_NOT_FOUND:
      case WSANO_DATA:
        return ErrorKind::kAddressUnavailable;
      case WSAEACCES:
      case ERROR_ACCESS_DENIED:
        return ErrorKind::kAccessDenied;
      case WSAEINVAL:
      case ERROR_INVALID_PARAMETER:
        return ErrorKind::kInvalidArgument;
      case WSAEAFNOSUPPORT:
      case WSAEOPNOTSUPP:
      case WSAEPROTONOSUPPORT:
      case WSASYSNOTREADY:
      case WSAVERNOTSUPPORTED:
        return ErrorKind::kUnsupported;
      default:
        return ErrorKind::kOther;
    }
  }();
  return {kind, code};
}

Address AddressFromWindows(const sockaddr* from, int length) {
  Address address;
  if (length >= static_cast<int>(sizeof(sockaddr_in)) && from->sa_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, from, sizeof(in));
    address.family = Address::Family::kIPv4;
    address.port = ntohs(in.sin_port);
    std::memcpy(address.bytes, &in.sin_addr, 4);
  } else if (length >= static_cast<int>(sizeof(sockaddr_in6)) && from->sa_family == AF_INET6) {
    sockaddr_in6 in6;
    std::memcpy(&in6, from, sizeof(in6));
    address.port = ntohs(in6.sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
      address.family = Address::Family::kIPv4;
      std::memcpy(address.bytes, reinterpret_cast<const char*>(&in6.sin6_addr) + 12, 4);
    } else {
      address.family = Address::Family::kIPv6;
      address.scope = in6.sin6_scope_id;
      std::memcpy(address.bytes, &in6.sin6_addr, 16);
    }
  }
  return address;
}

Status ListenWindows(const ListenOptions& options, NativeSocket* listener, Address* bound) {
  if (const Error error = OpenWinsock()) {
    return Failure("cannot open Winsock to listen on", options, error.code);
  }
  if (options.reuse_port) {
    Status status;
    status.problem = Status::Problem::kBadOption;
    status.error = {ErrorKind::kUnsupported, 0};
    status.message =
        "reuse_port is not available on Windows, where no two processes can share a port safely; "
        "use more workers instead";
    return status;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  // "" means every IPv4 address, as in Python's socket module.
  if (options.host.empty()) hints.ai_family = AF_INET;
  addrinfo* found = nullptr;
  const int answer = ::getaddrinfo(options.host.empty() ? nullptr : options.host.c_str(),
                                   std::to_string(options.port).c_str(), &hints, &found);
  if (answer != 0) {
    Status status;
    status.problem = Status::Problem::kUnresolved;
    status.error = {ErrorKind::kAddressUnavailable, answer};
    status.message = "cannot resolve the host of " + Where(options) + ": " +
                     std::system_category().message(answer) +
                     " (give a name or an address of this machine)";
    return status;
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  Status status;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    status = ListenOn(*info, options, listener, bound);
    if (status.ok()) break;
  }
  return status;
}

void CloseListenerWindows(NativeSocket listener) { ::closesocket(static_cast<SOCKET>(listener)); }

Error ConfigureWindows(SOCKET handle, bool no_delay, const std::optional<KeepAlive>& keepalive) {
  if (!SetOption(handle, IPPROTO_TCP, TCP_NODELAY, no_delay ? 1 : 0)) {
    return ErrorFromWindows(::WSAGetLastError());
  }
  if (!keepalive) return {};
  tcp_keepalive values{};
  values.onoff = 1;
  values.keepalivetime = Milliseconds(keepalive->idle);
  values.keepaliveinterval = Milliseconds(keepalive->interval);
  DWORD ignored = 0;
  if (::WSAIoctl(handle, SIO_KEEPALIVE_VALS, &values, sizeof(values), nullptr, 0, &ignored, nullptr,
                 nullptr) != 0) {
    return ErrorFromWindows(::WSAGetLastError());
  }
  return {};
}

void CloseWindows(NativeSocket handle, bool reset) {
  const auto socket = static_cast<SOCKET>(handle);
  if (reset) {
    const linger now{1, 0};
    ::setsockopt(socket, SOL_SOCKET, SO_LINGER, reinterpret_cast<const char*>(&now), sizeof(now));
  }
  ::closesocket(socket);
}

}  // namespace iocp
