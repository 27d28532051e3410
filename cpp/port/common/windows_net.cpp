#include "port/common/windows_net.h"

#include <mstcpip.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <system_error>

#include "port/common/system_net.h"

namespace iocp {
namespace {

ULONG Milliseconds(Duration duration) {
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
  return static_cast<ULONG>(std::clamp<std::int64_t>(milliseconds, 1, 0x7fffffff));
}

constexpr KindOfCode kKinds[] = {
    {WSAECONNRESET, ErrorKind::kReset},
    // By this machine's network stack: it gave up, or we did not close the connection.
    {WSAECONNABORTED, ErrorKind::kReset},
    {WSAENETRESET, ErrorKind::kReset},
    {WSAEDISCON, ErrorKind::kReset},
    {WSAESHUTDOWN, ErrorKind::kReset},
    {ERROR_NETNAME_DELETED, ErrorKind::kReset},
    {ERROR_CONNECTION_ABORTED, ErrorKind::kReset},
    {ERROR_BROKEN_PIPE, ErrorKind::kReset},
    {WSA_OPERATION_ABORTED, ErrorKind::kCancelled},
    {WSAETIMEDOUT, ErrorKind::kTimedOut},
    {ERROR_SEM_TIMEOUT, ErrorKind::kTimedOut},
    {WSAEMFILE, ErrorKind::kOutOfResources},
    {WSAENOBUFS, ErrorKind::kOutOfResources},
    {WSA_NOT_ENOUGH_MEMORY, ErrorKind::kOutOfResources},
    {ERROR_OUTOFMEMORY, ErrorKind::kOutOfResources},
    {ERROR_NO_SYSTEM_RESOURCES, ErrorKind::kOutOfResources},
    {ERROR_TOO_MANY_OPEN_FILES, ErrorKind::kOutOfResources},
    {ERROR_WORKING_SET_QUOTA, ErrorKind::kOutOfResources},
    {WSAEADDRINUSE, ErrorKind::kAddressInUse},
    {WSAEADDRNOTAVAIL, ErrorKind::kAddressUnavailable},
    {WSAHOST_NOT_FOUND, ErrorKind::kAddressUnavailable},
    {WSANO_DATA, ErrorKind::kAddressUnavailable},
    {WSAEACCES, ErrorKind::kAccessDenied},
    {ERROR_ACCESS_DENIED, ErrorKind::kAccessDenied},
    {WSAEINVAL, ErrorKind::kInvalidArgument},
    {ERROR_INVALID_PARAMETER, ErrorKind::kInvalidArgument},
    {WSAEAFNOSUPPORT, ErrorKind::kUnsupported},
    {WSAEOPNOTSUPP, ErrorKind::kUnsupported},
    {WSAEPROTONOSUPPORT, ErrorKind::kUnsupported},
    {WSASYSNOTREADY, ErrorKind::kUnsupported},
    {WSAVERNOTSUPPORTED, ErrorKind::kUnsupported},
};

}  // namespace

KindsOfCodes ErrorKinds() { return {kKinds, std::size(kKinds)}; }

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

const char* AccessAdvice(int /*code*/) {
  return " (another program holds the port for itself, or Windows has reserved it; choose another "
         "port, or 0 for a free one)";
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
