#include "port/common/windows_net.h"

#include <mstcpip.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "port/common/system_net.h"

namespace iocp {
namespace {

ULONG Milliseconds(Duration duration) {
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
  return static_cast<ULONG>(std::clamp<std::int64_t>(milliseconds, 1, 0x7fffffff));
}

}  // namespace

Error ErrorFromCode(int code) {
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

// ---- Where Windows differs from POSIX.

Error OpenNetwork() {
  // Never given up: sockets of others in this process may outlive every server.
  static const int code = [] {
    WSADATA data;
    return ::WSAStartup(MAKEWORD(2, 2), &data);
  }();
  return ErrorFromCode(code);
}

int LastSocketError() { return ::WSAGetLastError(); }
std::string ErrorMessage(int code) { return std::system_category().message(code); }

ResolveFailure ExplainResolving(int answer) { return {0, ErrorMessage(answer)}; }

const char* WhyCannotListen(const ListenOptions& options) {
  if (!options.reuse_port) return "";
  return "reuse_port is not available on Windows, where no two processes can share a port safely; "
         "use more workers instead";
}

NativeSocket CreateListeningSocket(int family) {
  static_assert(static_cast<NativeSocket>(INVALID_SOCKET) == kNoSocket);
  return static_cast<NativeSocket>(::WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, nullptr, 0,
                                                WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT));
}

// No other program can take the port from us. Accepted sockets inherit nothing: see
// ConfigureWindows.
bool SetListeningOptions(NativeSocket handle, const ListenOptions& /*options*/) {
  return SetSocketOption(handle, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
}

bool SetSocketOption(NativeSocket handle, int level, int name, int value) {
  return ::setsockopt(SystemSocketOf(handle), level, name, reinterpret_cast<const char*>(&value),
                      sizeof(value)) == 0;
}

// Windows cuts a plain number to 200. A larger one is asked for with SOMAXCONN_HINT, which some
// headers lack.
int SystemBacklog(int connections) { return connections > 200 ? -connections : connections; }

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

// Windows writes a zone as its number.
std::string ZoneName(std::uint32_t scope) { return std::to_string(scope); }

void CloseSystemSocket(NativeSocket handle) { ::closesocket(SystemSocketOf(handle)); }

// ---- What only the Windows port needs.

Error ConfigureWindows(NativeSocket handle, bool no_delay,
                       const std::optional<KeepAlive>& keepalive) {
  if (!SetSocketOption(handle, IPPROTO_TCP, TCP_NODELAY, no_delay ? 1 : 0)) {
    return ErrorFromCode(LastSocketError());
  }
  if (!keepalive) return {};
  tcp_keepalive values{};
  values.onoff = 1;
  values.keepalivetime = Milliseconds(keepalive->idle);
  values.keepaliveinterval = Milliseconds(keepalive->interval);
  DWORD ignored = 0;
  if (::WSAIoctl(SystemSocketOf(handle), SIO_KEEPALIVE_VALS, &values, sizeof(values), nullptr, 0,
                 &ignored, nullptr, nullptr) != 0) {
    return ErrorFromCode(LastSocketError());
  }
  return {};
}

}  // namespace iocp
