#include "port/readiness/epoll_poller.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>

#include "port/common/net.h"

namespace iocp {
namespace {

// epoll's events need no translation.
static_assert(kReadable == EPOLLIN && kWritable == EPOLLOUT && kFailed == EPOLLERR &&
              kHungUp == EPOLLHUP);

}  // namespace

struct EpollPoller::Events {
  epoll_event list[ReadySockets::kCapacity];
};

EpollPoller::EpollPoller() : events_(std::make_unique<Events>()) {}

EpollPoller::~EpollPoller() {
  if (epoll_ >= 0) ::close(epoll_);
}

Error EpollPoller::Open() {
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return ErrorFromCode(errno);
  if (const Error error = wake_.Open()) return error;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = nullptr;
  if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_.descriptor(), &event) != 0) {
    return ErrorFromCode(errno);
  }
  return {};
}

int EpollPoller::Watch(Socket& socket, std::uint8_t known, std::uint8_t wanted) {
  // Also before the socket is closed, although that would remove it: a forked child may hold the
  // same open socket, and epoll would then go on reporting it.
  const int change = wanted == 0 ? EPOLL_CTL_DEL : known == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  epoll_event event{};
  event.events = wanted;
  event.data.ptr = &socket;
  return ::epoll_ctl(epoll_, change, static_cast<int>(socket.handle), &event) == 0 ? 0 : errno;
}

bool EpollPoller::IsShortage(int code) { return code == ENOMEM || code == ENOSPC; }

int EpollPoller::Wait(int milliseconds, ReadySockets& found) {
  const int count = ::epoll_wait(epoll_, events_->list, ReadySockets::kCapacity, milliseconds);
  if (count < 0) return errno == EINTR ? 0 : errno;
  const epoll_event* event = events_->list;
  for (const epoll_event* const end = event + count; event != end; ++event) {
    if (event->data.ptr == nullptr) continue;  // the wake-up
    found.Add(*static_cast<Socket*>(event->data.ptr), static_cast<std::uint8_t>(event->events));
  }
  return 0;
}

}  // namespace iocp
