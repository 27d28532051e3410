#include "port/common/posix_net.h"

#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <iterator>
#include <system_error>

#include "port/common/system_net.h"

namespace iocp {
namespace {

int Seconds(Duration duration) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(duration).count();
  return static_cast<int>(std::clamp<std::int64_t>(seconds, 1, 32767));
}

constexpr KindOfCode kKinds[] = {
    {ECONNRESET, ErrorKind::kReset},        {EPIPE, ErrorKind::kReset},
    {ENETRESET, ErrorKind::kReset},         {ECANCELED, ErrorKind::kCancelled},
    {ETIMEDOUT, ErrorKind::kTimedOut},      {ECONNABORTED, ErrorKind::kClientGone},
    {EMFILE, ErrorKind::kOutOfResources},   {ENFILE, ErrorKind::kOutOfResources},
    {ENOBUFS, ErrorKind::kOutOfResources},  {ENOMEM, ErrorKind::kOutOfResources},
    {EADDRINUSE, ErrorKind::kAddressInUse}, {EADDRNOTAVAIL, ErrorKind::kAddressUnavailable},
    {EACCES, ErrorKind::kAccessDenied},     {EPERM, ErrorKind::kAccessDenied},
    {EINVAL, ErrorKind::kInvalidArgument},  {EAFNOSUPPORT, ErrorKind::kUnsupported},
    {EOPNOTSUPP, ErrorKind::kUnsupported},  {ENOSYS, ErrorKind::kUnsupported},
};

}  // namespace

KindsOfCodes ErrorKinds() { return {kKinds, std::size(kKinds)}; }

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

// ---- Where POSIX differs from Windows.

Error OpenNetwork() { return {}; }
int LastSocketError() { return errno; }
std::string ErrorMessage(int code) { return std::generic_category().message(code); }

ResolveFailure ExplainResolving(int answer) {
  return {answer == EAI_SYSTEM ? errno : 0, ::gai_strerror(answer)};
}

const char* WhyCannotListen(const ListenOptions& /*options*/) { return ""; }

// Non-blocking.
NativeSocket CreateListeningSocket(int family) {
  return ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
}

// Linux lets accepted sockets inherit TCP_NODELAY and keep-alive.
bool SetListeningOptions(NativeSocket handle, const ListenOptions& options) {
  bool good = SetSocketOption(handle, SOL_SOCKET, SO_REUSEADDR, 1);
  if (options.reuse_port) good = good && SetSocketOption(handle, SOL_SOCKET, SO_REUSEPORT, 1);
  if (options.no_delay) good = good && SetSocketOption(handle, IPPROTO_TCP, TCP_NODELAY, 1);
  if (options.keepalive) {
    const int idle = Seconds(options.keepalive->idle);
    const int interval = Seconds(options.keepalive->interval);
    good = good && SetSocketOption(handle, SOL_SOCKET, SO_KEEPALIVE, 1) &&
           SetSocketOption(handle, IPPROTO_TCP, TCP_KEEPIDLE, idle) &&
           SetSocketOption(handle, IPPROTO_TCP, TCP_KEEPINTVL, interval);
  }
  return good;
}

bool SetSocketOption(NativeSocket handle, int level, int name, int value) {
  return ::setsockopt(SystemSocketOf(handle), level, name, &value, sizeof(value)) == 0;
}

int SystemBacklog(int connections) { return connections; }

const char* AccessAdvice(int code) {
  return code == EACCES ? " (ports below 1024 need privileges; choose a higher one)" : "";
}

std::string ZoneName(std::uint32_t scope) {
  char name[IF_NAMESIZE];
  return ::if_indextoname(scope, name) != nullptr ? name : std::to_string(scope);
}

// On Linux the descriptor is gone whatever close answers, EINTR included.
void CloseSystemSocket(NativeSocket handle) { ::close(SystemSocketOf(handle)); }

// ---- What only the ports on POSIX systems need.

void DisconnectPosix(NativeSocket handle) {
  sockaddr nowhere{};
  nowhere.sa_family = AF_UNSPEC;
  (void)::connect(SystemSocketOf(handle), &nowhere, sizeof(nowhere));
}

void CloseInOrderPosix(NativeSocket handle, Duration timeout) {
  // Without it a peer that has shut its window would keep the bytes in the kernel for many minutes.
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  const auto limit = static_cast<unsigned>(std::clamp<std::int64_t>(milliseconds, 1, INT_MAX));
  ::setsockopt(SystemSocketOf(handle), IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit));
  CloseSocket(handle, false);
}

int ReadyPosix(NativeSocket handle, int events) {
  pollfd asked{SystemSocketOf(handle), static_cast<short>(events), 0};
  return ::poll(&asked, 1, 0) > 0 ? asked.revents : 0;
}

Error TakeErrorPosix(NativeSocket handle) {
  int code = 0;
  socklen_t length = sizeof(code);
  ::getsockopt(SystemSocketOf(handle), SOL_SOCKET, SO_ERROR, &code, &length);
  return ErrorFromCode(code != 0 ? code : ECONNRESET);
}

std::size_t UnacknowledgedPosix(NativeSocket handle, bool send_shut) {
  int bytes = 0;
  if (::ioctl(SystemSocketOf(handle), SIOCOUTQ, &bytes) != 0) return 0;
  return static_cast<std::size_t>(std::max(bytes - (send_shut ? 1 : 0), 0));
}

}  // namespace iocp
