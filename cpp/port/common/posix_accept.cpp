#include "port/common/posix_accept.h"

#include <sys/socket.h>

#include <cerrno>

#include "port/common/posix_net.h"

namespace iocp {

Error CheckListens(NativeSocket listener) {
  int listens = 0;
  socklen_t length = sizeof(listens);
  if (::getsockopt(static_cast<int>(listener), SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0) {
    return ErrorFromCode(errno);
  }
  return listens != 0 ? Error{} : ErrorFromCode(EINVAL);
}

bool AcceptSome(Socket& listener, AcceptGate* gate, int most, Batch& batch) {
  for (int i = 0; i < most && !batch.full(); ++i) {
    if (gate != nullptr && !gate->Enter(listener)) return false;
    int fd = -1;
    do {
      fd = ::accept4(static_cast<int>(listener.handle), nullptr, nullptr,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    const int code = fd < 0 ? errno : 0;
    if (code != 0 && gate != nullptr) gate->Leave();
    if (code == EAGAIN || code == EWOULDBLOCK) return true;
    Completion& completion = batch.Add(Operation::kAccept, &listener);
    completion.last = false;
    if (code == 0) {
      completion.accepted = fd;
    } else if (IsOneClientsError(code)) {
      completion.error = {ErrorKind::kClientGone, code};
    } else {
      // It would fail again at once, so it waits for Resume (R8).
      completion.error = {ErrorKind::kOutOfResources, code};
      return false;
    }
  }
  return true;
}

}  // namespace iocp
