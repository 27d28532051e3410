// The system as the tests use it, by the same names on every system: its sockets, descriptors and
// processor time. The clients are client.h and port/loopback.h.
#pragma once

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
// after winsock2.h
#include <windows.h>
#include <ws2tcpip.h>
#else
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#endif

#include <iocp/iocp.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <string_view>

namespace iocp::testing {

#ifdef _WIN32

using ClientSocket = SOCKET;
inline constexpr ClientSocket kNoClientSocket = INVALID_SOCKET;
// Codes of the system that tests expect.
inline constexpr int kCodeReset = WSAECONNRESET;
inline constexpr int kCodeAddressInUse = WSAEADDRINUSE;
inline constexpr int kCodeAddressUnavailable = WSAEADDRNOTAVAIL;

// Wine runs Windows programs on Linux. It is not Windows where resets are concerned: closing a
// socket always ends its stream in order first, so that a reset comes too late to be seen; and a
// reset that comes while nobody receives is taken off the socket, and what is left is an end of
// stream.
inline bool IsWine() {
  static const bool is_wine =
      ::GetProcAddress(::GetModuleHandleW(L"ntdll.dll"), "wine_get_version") != nullptr;
  return is_wine;
}

inline int LastSocketError() { return ::WSAGetLastError(); }
inline bool WasInterrupted(int) { return false; }
inline bool WouldBlock(int code) { return code == WSAEWOULDBLOCK; }
inline bool IsConnected(int code) { return code == WSAEISCONN; }
inline ClientSocket OpenSocket(int family) {
  // Here, and not in the tests' main: some clients are older than the first server.
  static const int started = [] {
    WSADATA data;
    return ::WSAStartup(MAKEWORD(2, 2), &data);
  }();
  if (started != 0) return kNoClientSocket;
  return ::WSASocketW(family, SOCK_STREAM, IPPROTO_TCP, nullptr, 0,
                      WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
}
inline void CloseSocket(ClientSocket socket) { ::closesocket(socket); }
inline void EndSending(ClientSocket socket) { ::shutdown(socket, SD_SEND); }
inline void SetNonBlocking(ClientSocket socket) {
  u_long on = 1;
  ::ioctlsocket(socket, FIONBIO, &on);
}
inline void SetTimeout(ClientSocket socket, int option, std::chrono::milliseconds timeout) {
  const auto limit = static_cast<DWORD>(timeout.count());
  ::setsockopt(socket, SOL_SOCKET, option, reinterpret_cast<const char*>(&limit), sizeof(limit));
}
#if defined(__GNUC__) && defined(__x86_64__)
// A client's reset under Wine, asked of Linux itself: connecting to nowhere sends one.
inline void ResetOnLinux(ClientSocket socket) {
  using HandleToFd = int(__cdecl*)(HANDLE, unsigned, int*, unsigned*);
  const auto handle_to_fd = reinterpret_cast<HandleToFd>(reinterpret_cast<void*>(
      ::GetProcAddress(::GetModuleHandleW(L"ntdll.dll"), "wine_server_handle_to_fd")));
  int fd = -1;
  if (handle_to_fd(reinterpret_cast<HANDLE>(socket), 0, &fd, nullptr) != 0) return;
  constexpr long long kConnect = 42;
  constexpr long long kClose = 3;
  const sockaddr_in nowhere{};  // of no family
  long long result = kConnect;
  __asm__ volatile("syscall"
                   : "+a"(result)
                   : "D"(static_cast<long long>(fd)), "S"(&nowhere), "d"(sizeof(nowhere))
                   : "rcx", "r11", "memory");
  result = kClose;
  __asm__ volatile("syscall"
                   : "+a"(result)
                   : "D"(static_cast<long long>(fd))
                   : "rcx", "r11", "memory");
}
#else
inline void ResetOnLinux(ClientSocket) {}
#endif
// Descriptors, or what a leak would show up in.
inline std::size_t CountDescriptors() {
  DWORD count = 0;
  ::GetProcessHandleCount(::GetCurrentProcess(), &count);
  return count;
}
inline std::chrono::nanoseconds ProcessorTime() {
  FILETIME begun;
  FILETIME ended;
  FILETIME kernel;
  FILETIME user;
  ::GetProcessTimes(::GetCurrentProcess(), &begun, &ended, &kernel, &user);
  const auto ticks = [](const FILETIME& time) {
    return std::int64_t{time.dwHighDateTime} << 32 | time.dwLowDateTime;
  };
  return std::chrono::nanoseconds(100 * (ticks(kernel) + ticks(user)));
}

#else

inline bool IsWine() { return false; }

using ClientSocket = int;
inline constexpr ClientSocket kNoClientSocket = -1;
inline constexpr int kCodeReset = ECONNRESET;
inline constexpr int kCodeAddressInUse = EADDRINUSE;
inline constexpr int kCodeAddressUnavailable = EADDRNOTAVAIL;

inline int LastSocketError() { return errno; }
// One that was interrupted (by a ring's work, too) goes on by itself; asking again reports how.
inline bool WasInterrupted(int code) { return code == EINTR || code == EALREADY; }
inline bool WouldBlock(int code) { return code == EAGAIN || code == EWOULDBLOCK; }
inline bool IsConnected(int code) { return code == EISCONN; }
inline ClientSocket OpenSocket(int family) {
  return ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
}
inline void CloseSocket(ClientSocket socket) { ::close(socket); }
inline void EndSending(ClientSocket socket) { ::shutdown(socket, SHUT_WR); }
inline void SetNonBlocking(ClientSocket socket) {
  ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
}
inline void SetTimeout(ClientSocket socket, int option, std::chrono::milliseconds timeout) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  const auto rest = std::chrono::duration_cast<std::chrono::microseconds>(timeout - seconds);
  const timeval limit{seconds.count(), rest.count()};
  ::setsockopt(socket, SOL_SOCKET, option, &limit, sizeof(limit));
}
inline std::size_t CountDescriptors() {
  DIR* directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  std::size_t count = 0;
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}
inline std::chrono::nanoseconds ProcessorTime() {
  return std::chrono::microseconds(std::clock() * (1'000'000 / CLOCKS_PER_SEC));
}
inline void ResetOnLinux(ClientSocket) {}

#endif

inline socklen_t ToSockaddr(const Address& address, sockaddr_storage* storage) {
  *storage = {};
  if (address.family == Address::Family::kIPv6) {
    auto& in6 = reinterpret_cast<sockaddr_in6&>(*storage);
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(address.port);
    in6.sin6_scope_id = address.scope;
    std::memcpy(&in6.sin6_addr, address.bytes, sizeof(in6.sin6_addr));
    return sizeof(in6);
  }
  auto& in = reinterpret_cast<sockaddr_in&>(*storage);
  in.sin_family = AF_INET;
  in.sin_port = htons(address.port);
  std::memcpy(&in.sin_addr, address.bytes, sizeof(in.sin_addr));
  return sizeof(in);
}

inline Address Loopback(Address::Family family, std::uint16_t port) {
  Address address;
  address.family = family;
  address.port = port;
  if (family == Address::Family::kIPv4) {
    address.bytes[0] = 127;
    address.bytes[3] = 1;
  } else {
    address.bytes[15] = 1;
  }
  return address;
}

// 0, or the system's code.
inline int ConnectSocket(ClientSocket socket, const Address& to) {
  sockaddr_storage storage;
  const socklen_t length = ToSockaddr(to, &storage);
  while (::connect(socket, reinterpret_cast<const sockaddr*>(&storage), length) != 0) {
    const int code = LastSocketError();
    if (IsConnected(code)) break;
    if (!WasInterrupted(code)) return code;
  }
  return 0;
}

inline std::uint16_t LocalPort(ClientSocket socket) {
  sockaddr_storage here{};
  socklen_t length = sizeof(here);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&here), &length);
  return ntohs(here.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(here).sin_port
                                         : reinterpret_cast<const sockaddr_in6&>(here).sin6_port);
}

// As send and recv: how many bytes; -1, and LastSocketError says why.
inline std::ptrdiff_t SendSome(ClientSocket socket, std::string_view data) {
#ifdef _WIN32
  return ::send(socket, data.data(), static_cast<int>(data.size()), 0);
#else
  return ::send(socket, data.data(), data.size(), MSG_NOSIGNAL);
#endif
}
inline std::ptrdiff_t ReceiveSome(ClientSocket socket, char* data, std::size_t size) {
#ifdef _WIN32
  return ::recv(socket, data, static_cast<int>(size), 0);
#else
  return ::recv(socket, data, size, 0);
#endif
}

// Whether `code` is what a client hears of a connection that the server has reset.
inline bool IsReset(int code) { return code == kCodeReset || (IsWine() && code == 0); }

// Closes with a reset.
inline void ResetSocket(ClientSocket socket) {
  if (IsWine()) ResetOnLinux(socket);
  const linger now{1, 0};
  ::setsockopt(socket, SOL_SOCKET, SO_LINGER, reinterpret_cast<const char*>(&now), sizeof(now));
  CloseSocket(socket);
}

}  // namespace iocp::testing
