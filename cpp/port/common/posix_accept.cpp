#include "port/common/posix_accept.h"

#include <sys/socket.h>

#include <cerrno>

#include "port/common/posix_net.h"

namespace iocp {

Error CheckListensPosix(NativeSocket listener) {
  int listens = 0;
  socklen_t length = sizeof(listens);
  if (::getsockopt(static_cast<int>(listener), SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0) {
    return ErrorFromErrno(errno);
  }
  return listens != 0 ? Error{} : ErrorFromErrno(EINVAL);
}

AcceptStep AcceptPosix(Socket& listener, AcceptGate* gate, Completion* completion) {
  if (gate != nullptr && !gate->Enter(listener)) return AcceptStep::kFull;
  int fd = -1;
  do {
    fd = ::accept4(static_cast<int>(listener.handle), nullptr, nullptr,
                   SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  const int error = fd < 0 ? errno : 0;
  if (error != 0 && gate != nullptr) gate->Leave();
  if (error == EAGAIN || error == EWOULDBLOCK) return AcceptStep::kNobody;
  *completion = Completion{};
  completion->operation = Operation::kAccept;
  completion->socket = &listener;
  completion->last = false;
  if (error == 0) {
    completion->accepted = fd;
    return AcceptStep::kOne;
  }
  const bool one_clients = IsOneClientsError(error);
  completion->error = {one_clients ? ErrorKind::kClientGone : ErrorKind::kOutOfResources, error};
  // Whatever else fails would fail again at once, so it waits for Resume like exhaustion.
  return one_clients ? AcceptStep::kOne : AcceptStep::kTrouble;
}

}  // namespace iocp
