#include "port/common/net.h"

#ifndef _WIN32
#include <arpa/inet.h>
#include <netinet/in.h>
#endif

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>

#include "port/common/system_net.h"

namespace iocp {
namespace {

std::string Where(const ListenOptions& options) {
  const bool v6 = options.host.find(':') != std::string::npos;
  const std::string host = v6 ? "[" + options.host + "]" : options.host;
  return host + ":" + std::to_string(options.port);
}

// The step that the system has just refused.
Status Failure(const char* step, const ListenOptions& options, int code, const char* advice = "") {
  Status status;
  status.problem = Status::Problem::kSystem;
  status.error = ErrorFromCode(code);
  status.message = std::string(step) + " " + Where(options) + ": " + ErrorMessage(code) + advice;
  return status;
}

// A hint for the user about an address that the system refuses; "" when the code says it all.
const char* BindAdvice(int code) {
  switch (ErrorFromCode(code).kind) {
    case ErrorKind::kAddressInUse:
      return " (another program listens there; choose another port, or 0 for a free one)";
    case ErrorKind::kAddressUnavailable:
      return " (no interface of this machine has that address)";
    case ErrorKind::kAccessDenied:
      return AccessAdvice(code);
    default:
      return "";
  }
}

// True exactly when an IPv6 address is "::", however it was written.
bool IsAllOfIPv6(const addrinfo& info) {
  sockaddr_in6 address;
  std::memcpy(&address, info.ai_addr, sizeof(address));
  return IN6_IS_ADDR_UNSPECIFIED(&address.sin6_addr);
}

// The socket options that must be there before bind.
bool Configure(NativeSocket handle, const addrinfo& info, const ListenOptions& options) {
  if (!SetListeningOptions(handle, options)) return false;
  if (info.ai_family != AF_INET6) return true;
  const bool dual = options.dual_stack && IsAllOfIPv6(info);
  return SetSocketOption(handle, IPPROTO_IPV6, IPV6_V6ONLY, dual ? 0 : 1);
}

// The local address of a socket. False when the system refuses.
bool ReadLocal(NativeSocket handle, Address* local) {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  if (::getsockname(SystemSocketOf(handle), address, &length) != 0) return false;
  *local = AddressFrom(address, length);
  return true;
}

// One resolved address: socket, options, bind, listen. Ok, or the step that failed.
Status ListenOn(const addrinfo& info, const ListenOptions& options, NativeSocket* listener,
                Address* bound) {
  const NativeSocket handle = CreateListeningSocket(info.ai_family);
  if (handle == kNoSocket) {
    return Failure("cannot create a socket for", options, LastSocketError());
  }
  const SystemSocket socket = SystemSocketOf(handle);
  Status status;
  if (!Configure(handle, info, options)) {
    status = Failure("cannot set the socket options for", options, LastSocketError());
  } else if (::bind(socket, info.ai_addr, static_cast<socklen_t>(info.ai_addrlen)) != 0) {
    const int code = LastSocketError();
    status = Failure("cannot bind to", options, code, BindAdvice(code));
  } else if (::listen(socket, SystemBacklog(options.backlog)) != 0) {
    const int code = LastSocketError();
    status = Failure("cannot listen on", options, code, BindAdvice(code));
  } else if (!ReadLocal(handle, bound)) {
    status = Failure("cannot read the bound address of", options, LastSocketError());
  }
  if (!status.ok()) {
    CloseSystemSocket(handle);
    return status;
  }
  *listener = handle;
  return status;
}

// Signed on some systems.
template <typename SystemAddress>
constexpr auto kLength = static_cast<socklen_t>(sizeof(SystemAddress));

// Also when the address is not known.
bool IsWildcard(const Address& address) {
  return std::all_of(std::begin(address.bytes), std::end(address.bytes),
                     [](std::uint8_t byte) { return byte == 0; });
}

}  // namespace

Error ErrorFromCode(int code) {
  if (code == 0) return {};
  const KindsOfCodes kinds = ErrorKinds();
  const KindOfCode* const end = kinds.first + kinds.count;
  const KindOfCode* const found = std::find_if(
      kinds.first, end, [code](const KindOfCode& candidate) { return candidate.code == code; });
  return {found != end ? found->kind : ErrorKind::kOther, code};
}

std::string Address::Host() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (family == Family::kIPv4) {
    ::inet_ntop(AF_INET, bytes, text, sizeof(text));
  } else if (family == Family::kIPv6) {
    ::inet_ntop(AF_INET6, bytes, text, sizeof(text));
  }
  std::string host = text;
  if (scope != 0) host += '%' + ZoneName(scope);
  return host;
}

Status Listen(const ListenOptions& options, NativeSocket* listener, Address* bound) {
  if (const char* const reason = WhyCannotListen(options); *reason != '\0') {
    Status status;
    status.problem = Status::Problem::kBadOption;
    status.error = {ErrorKind::kUnsupported, 0};
    status.message = reason;
    return status;
  }
  if (const Error error = OpenNetwork()) {
    return Failure("cannot open the network to listen on", options, error.code);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  // "" means every IPv4 address, as in Python's socket module.
  if (options.host.empty()) hints.ai_family = AF_INET;
  addrinfo* found = nullptr;
  const int answer = ::getaddrinfo(options.host.empty() ? nullptr : options.host.c_str(),
                                   std::to_string(options.port).c_str(), &hints, &found);
  if (answer != 0) {
    const ResolveFailure failure = ExplainResolving(answer);
    const bool by_system = failure.system_error != 0;
    Status status;
    status.problem = by_system ? Status::Problem::kSystem : Status::Problem::kUnresolved;
    status.error = {ErrorKind::kAddressUnavailable, by_system ? failure.system_error : answer};
    status.message = "cannot resolve the host of " + Where(options) + ": " + failure.message +
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

void CloseListener(NativeSocket listener) { CloseSystemSocket(listener); }

Address AddressFrom(const sockaddr* from, socklen_t length) {
  Address address;
  if (length >= kLength<sockaddr_in> && from->sa_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, from, sizeof(in));
    address.family = Address::Family::kIPv4;
    address.port = ntohs(in.sin_port);
    std::memcpy(address.bytes, &in.sin_addr, 4);
  } else if (length >= kLength<sockaddr_in6> && from->sa_family == AF_INET6) {
    sockaddr_in6 in6;
    std::memcpy(&in6, from, sizeof(in6));
    address.port = ntohs(in6.sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
      address.family = Address::Family::kIPv4;
      std::memcpy(address.bytes, in6.sin6_addr.s6_addr + 12, 4);
    } else {
      address.family = Address::Family::kIPv6;
      address.scope = in6.sin6_scope_id;
      std::memcpy(address.bytes, &in6.sin6_addr, 16);
    }
  }
  return address;
}

Error ReadEndpoints(NativeSocket handle, const Address& listening, Address* local,
                    Address* remote) {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  auto* const peer = reinterpret_cast<sockaddr*>(&storage);
  Address own = listening;
  if (::getpeername(SystemSocketOf(handle), peer, &length) != 0 ||
      (IsWildcard(listening) && !ReadLocal(handle, &own))) {
    return ErrorFromCode(LastSocketError());
  }
  *local = own;
  *remote = AddressFrom(peer, length);
  return {};
}

void CloseSocket(NativeSocket handle, bool reset) {
  if (reset) {
    const linger now{1, 0};
    ::setsockopt(SystemSocketOf(handle), SOL_SOCKET, SO_LINGER, reinterpret_cast<const char*>(&now),
                 sizeof(now));
  }
  CloseSystemSocket(handle);
}

}  // namespace iocp
