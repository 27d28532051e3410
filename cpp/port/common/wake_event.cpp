#include "port/common/wake_event.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>

#include "port/common/net.h"

namespace iocp {

WakeEvent::~WakeEvent() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Error WakeEvent::Open() {
  descriptor_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return descriptor_ < 0 ? ErrorFromCode(errno) : Error{};
}

void WakeEvent::Signal() {
  const std::uint64_t one = 1;
  // It cannot fail: the counter would have to overflow.
  [[maybe_unused]] const auto written = ::write(descriptor_, &one, sizeof(one));
}

void WakeEvent::SleepUntilSignalled(int milliseconds) {
  pollfd watched{descriptor_, POLLIN, 0};
  const int found = ::poll(&watched, 1, milliseconds);
  if (found > 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto taken = ::read(descriptor_, &count, sizeof(count));
  } else if (found < 0 && errno != EINTR) {
    // Even that is refused: a signal is seen a little later.
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace iocp
