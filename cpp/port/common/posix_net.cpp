#include "port/common/posix_net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>

namespace iocp {
namespace {

int Descriptor(NativeSocket handle) { return static_cast<int>(handle); }

std::string Where(const ListenOptions& options) {
  const bool v6 = options.host.find(':') != std::string::npos;
  const std::string host = v6 ? "[" + options.host + "]" : options.host;
  return host + ":" + std::to_string(options.port);
}

Status Failure(const char* step, const ListenOptions& options, int error_number,
               const std::string& advice = "") {
  Status status;
  status.problem = Status::Problem::kSystem;
  status.error = ErrorFromErrno(error_number);
  status.message = std::string(step) + " " + Where(options) + ": " +
                   std::generic_category().message(error_number) + advice;
  return status;
}

const char* BindAdvice(int error_number) {
  switch (error_number) {
    case EADDRINUSE:
      return " (another program listens there; choose another port, or 0 for a free one)";
    case EACCES:
      return " (ports below 1024 need privileges; choose a higher one)";
    case EADDRNOTAVAIL:
      return " (no interface of this machine has that address)";
    default:
      return "";
  }
}

bool SetOption(int fd, int level, int name, int value) {
  return ::setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

int Seconds(Duration duration) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(duration).count();
  return static_cast<int>(std::clamp<std::int64_t>(seconds, 1, 32767));
}

// Whether an IPv6 address is "::", however it was written.
bool IsAllOfIPv6(const addrinfo& info) {
  sockaddr_in6 address;
  std::memcpy(&address, info.ai_addr, sizeof(address));
  return IN6_IS_ADDR_UNSPECIFIED(&address.sin6_addr);
}

// The socket options that must be there before bind, and those that accepted sockets inherit.
bool Configure(int fd, const addrinfo& info, const ListenOptions& options) {
  bool good = SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (options.reuse_port) good = good && SetOption(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  if (info.ai_family == AF_INET6) {
    const bool dual = options.dual_stack && IsAllOfIPv6(info);
    good = good && SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, dual ? 0 : 1);
  }
  if (options.no_delay) good = good && SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (options.keepalive) {
    good = good && SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1) &&
           SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, Seconds(options.keepalive->idle)) &&
           SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, Seconds(options.keepalive->interval));
  }
  return good;
}

// One resolved address: socket, options, bind, listen. Ok, or the step that failed.
Status ListenOn(const addrinfo& info, const ListenOptions& options, NativeSocket* listener,
                Address* bound) {
  const int fd = ::socket(info.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
  if (fd < 0) return Failure("cannot create a socket for", options, errno);
  Status status;
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  if (!Configure(fd, info, options)) {
    status = Failure("cannot set the socket options for", options, errno);
  } else if (::bind(fd, info.ai_addr, info.ai_addrlen) != 0) {
    status = Failure("cannot bind to", options, errno, BindAdvice(errno));
  } else if (::listen(fd, options.backlog) != 0) {
    status = Failure("cannot listen on", options, errno, BindAdvice(errno));
  } else if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
    status = Failure("cannot read the bound address of", options, errno);
  }
  if (!status.ok()) {
    ::close(fd);
    return status;
  }
  *listener = fd;
  *bound = AddressFromPosix(reinterpret_cast<const sockaddr*>(&storage), length);
  return status;
}

// Also when it is not known.
bool IsWildcard(const Address& address) {
  return std::all_of(std::begin(address.bytes), std::end(address.bytes),
                     [](std::uint8_t byte) { return byte == 0; });
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
  if (scope != 0) {
    char name[IF_NAMESIZE];
    host += '%';
    host += ::if_indextoname(scope, name) != nullptr ? name : std::to_string(scope);
  }
  return host;
}

Error ErrorFromErrno(int error_number) {
  const auto kind = [&] {
    switch (error_number) {
      case 0:
        return ErrorKind::kNone;
      case ECONNRESET:
      case EPIPE:
      case ENETRESET:
        return ErrorKind::kReset;
      case ECANCELED:
        return ErrorKind::kCancelled;
      case ETIMEDOUT:
        return ErrorKind::kTimedOut;
      case ECONNABORTED:
        return ErrorKind::kClientGone;
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        return ErrorKind::kOutOfResources;
      case EADDRINUSE:
        return ErrorKind::kAddressInUse;
      case EADDRNOTAVAIL:
        return ErrorKind::kAddressUnavailable;
      case EACCES:
      case EPERM:
        return ErrorKind::kAccessDenied;
      case EINVAL:
        return ErrorKind::kInvalidArgument;
      case EAFNOSUPPORT:
      case EOPNOTSUPP:
      case ENOSYS:
        return ErrorKind::kUnsupported;
      default:
        return ErrorKind::kOther;
    }
  }();
  return {kind, error_number};
}

bool IsOneClientsError(int error_number) {
  switch (error_number) {
    case ECONNABORTED:
    case ECONNRESET:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETUNREACH:
    case ENONET:
    case ENOPROTOOPT:
    case EPERM:  // a firewall rule
    case EPROTO:
    case ETIMEDOUT:
      return true;
    default:
      return false;
  }
}

bool IsExhaustion(int error_number) {
  return error_number == EMFILE || error_number == ENFILE || error_number == ENOBUFS ||
         error_number == ENOMEM;
}

Status ListenPosix(const ListenOptions& options, NativeSocket* listener, Address* bound) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  // "" means every IPv4 address, as in Python's socket module.
  if (options.host.empty()) hints.ai_family = AF_INET;
  addrinfo* found = nullptr;
  const int answer = ::getaddrinfo(options.host.empty() ? nullptr : options.host.c_str(),
                                   std::to_string(options.port).c_str(), &hints, &found);
  if (answer != 0) {
    Status status;
    status.problem = answer == EAI_SYSTEM ? Status::Problem::kSystem : Status::Problem::kUnresolved;
    status.error = {ErrorKind::kAddressUnavailable, answer == EAI_SYSTEM ? errno : answer};
    status.message = "cannot resolve the host of " + Where(options) + ": " +
                     ::gai_strerror(answer) + " (give a name or an address of this machine)";
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

void CloseListenerPosix(NativeSocket listener) { ::close(Descriptor(listener)); }

Address AddressFromPosix(const sockaddr* from, socklen_t length) {
  Address address;
  if (length >= sizeof(sockaddr_in) && from->sa_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, from, sizeof(in));
    address.family = Address::Family::kIPv4;
    address.port = ntohs(in.sin_port);
    std::memcpy(address.bytes, &in.sin_addr, 4);
  } else if (length >= sizeof(sockaddr_in6) && from->sa_family == AF_INET6) {
    sockaddr_in6 in6;
    std::memcpy(&in6, from, sizeof(in6));
    address.port = ntohs(in6.sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
      address.family = Address::Family::kIPv4;
      std::memcpy(address.bytes, &in6.sin6_addr.s6_addr[12], 4);
    } else {
      address.family = Address::Family::kIPv6;
      address.scope = in6.sin6_scope_id;
      std::memcpy(address.bytes, &in6.sin6_addr, 16);
    }
  }
  return address;
}

Error EndpointsPosix(NativeSocket handle, const Address& listening, Address* local,
                     Address* remote) {
  sockaddr_storage end{};
  socklen_t length = sizeof(end);
  const int fd = Descriptor(handle);
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&end), &length) != 0) {
    return ErrorFromErrno(errno);
  }
  const Address peer = AddressFromPosix(reinterpret_cast<const sockaddr*>(&end), length);
  if (IsWildcard(listening)) {
    length = sizeof(end);
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&end), &length) != 0) {
      return ErrorFromErrno(errno);
    }
    *local = AddressFromPosix(reinterpret_cast<const sockaddr*>(&end), length);
  } else {
    *local = listening;
  }
  *remote = peer;
  return {};
}

void DisconnectPosix(NativeSocket handle) {
  sockaddr nowhere{};
  nowhere.sa_family = AF_UNSPEC;
  (void)::connect(Descriptor(handle), &nowhere, sizeof(nowhere));
}

void SleepUntilWritten(int event_fd, int milliseconds) {
  pollfd watched{event_fd, POLLIN, 0};
  const int found = ::poll(&watched, 1, milliseconds);
  if (found > 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto taken = ::read(event_fd, &count, sizeof(count));
  } else if (found < 0 && errno != EINTR) {
    // Even that is refused: what is written is seen a little later.
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

void ClosePosix(NativeSocket handle, bool reset) {
  const int fd = Descriptor(handle);
  if (reset) {
    const linger now{1, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  }
  // On Linux the descriptor is gone whatever close answers, EINTR included.
  ::close(fd);
}

void CloseInOrderPosix(NativeSocket handle, Duration timeout) {
  // Without it a peer that has shut its window would keep the bytes in the kernel for many minutes.
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  const auto limit = static_cast<unsigned>(std::clamp<std::int64_t>(milliseconds, 1, INT_MAX));
  ::setsockopt(Descriptor(handle), IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit));
  ClosePosix(handle, false);
}

int ReadyPosix(NativeSocket handle, int events) {
  pollfd asked{Descriptor(handle), static_cast<short>(events), 0};
  return ::poll(&asked, 1, 0) > 0 ? asked.revents : 0;
}

Error TakeErrorPosix(NativeSocket handle) {
  int code = 0;
  socklen_t length = sizeof(code);
  ::getsockopt(Descriptor(handle), SOL_SOCKET, SO_ERROR, &code, &length);
  return ErrorFromErrno(code != 0 ? code : ECONNRESET);
}

std::size_t UnacknowledgedPosix(NativeSocket handle, bool send_shut) {
  int bytes = 0;
  if (::ioctl(Descriptor(handle), SIOCOUTQ, &bytes) != 0) return 0;
  return static_cast<std::size_t>(std::max(bytes - (send_shut ? 1 : 0), 0));
}

}  // namespace iocp
