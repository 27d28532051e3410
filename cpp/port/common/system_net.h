// Where the sockets of POSIX and of Windows differ. net.cpp is the same text for both and calls
// these functions; posix_net.cpp and windows_net.cpp define them.
#pragma once

#include <string>

#include "port/common/net.h"

#ifndef _WIN32
#include <netdb.h>
#endif

namespace iocp {

#ifdef _WIN32
using SystemSocket = SOCKET;
#else
using SystemSocket = int;
#endif
inline SystemSocket SystemSocketOf(NativeSocket handle) {
  return static_cast<SystemSocket>(handle);
}

// Makes sockets usable for the rest of the process's life. Any thread, any number of times.
Error OpenNetwork();

// The table from the system's codes to ErrorKind; a code that it lacks is ErrorKind::kOther.
struct KindOfCode {
  int code;
  ErrorKind kind;
};
struct KindsOfCodes {
  const KindOfCode* first;
  std::size_t count;
};
KindsOfCodes ErrorKinds();

// The code of the socket call that has just failed on this thread.
int LastSocketError();
// The system's own words for a code.
std::string ErrorMessage(int code);

// Why getaddrinfo failed. `system_error` is the code where a system call failed in it, else 0.
struct ResolveFailure {
  int system_error = 0;
  std::string message;
};
ResolveFailure ExplainResolving(int answer);

// "" when this system can listen in this way; otherwise why not, for a user.
const char* WhyCannotListen(const ListenOptions& options);
// A TCP socket that child processes do not inherit, in the mode that accepting needs. kNoSocket
// when the system refuses.
NativeSocket CreateListeningSocket(int family);
// Who may share the port, and what accepted sockets inherit on this system. False when the system
// refuses.
bool SetListeningOptions(NativeSocket handle, const ListenOptions& options);
bool SetSocketOption(NativeSocket handle, int level, int name, int value);
// The argument of listen(2) for so many connections that wait.
int SystemBacklog(int connections);
// A hint for the user whom the system denies an address; "" when the code says it all.
const char* AccessAdvice(int code);

// How an IPv6 address names its zone.
std::string ZoneName(std::uint32_t scope);

// Closes a socket, and no more.
void CloseSystemSocket(NativeSocket handle);

}  // namespace iocp
