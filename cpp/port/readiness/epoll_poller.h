// The poller of Linux: epoll, level-triggered.
#pragma once

#include <cstdint>
#include <memory>

#include "iocp/error.h"
#include "port/common/wake_event.h"
#include "port/readiness/readiness.h"

namespace iocp {

// Used on the worker's thread, but for Wake.
class EpollPoller {
 public:
  // The name of the kind of port that is built on it.
  static constexpr const char* kName = "epoll";

  EpollPoller();
  EpollPoller(const EpollPoller&) = delete;
  EpollPoller& operator=(const EpollPoller&) = delete;
  ~EpollPoller();

  // Once, before all else.
  Error Open();

  // Watches `socket` for `wanted` instead of `known`, which is what the last call for it asked for;
  // 0 is nothing, not even that it breaks. 0, or the system's code.
  int Watch(Socket& socket, std::uint8_t known, std::uint8_t wanted);
  // True exactly when a code of Watch concerns that one socket: there is no memory to watch it, or
  // the user's limit of watches is reached. Any other code means that the system will never again
  // let this poller watch.
  static bool IsShortage(int code);

  // Waits for so long, -1 for ever, until a socket is ready or somebody calls Wake, and adds what
  // is ready to `found`, which is empty. A signal ends it early. 0, or the system's code: it will
  // never again let this poller wait.
  int Wait(int milliseconds, ReadySockets& found);
  // For a poller that the system no longer lets wait: until somebody calls Wake, or for so long.
  void SleepUntilWoken(int milliseconds) { wake_.SleepUntilSignalled(milliseconds); }
  // Ends the Wait of now, or of next. Any thread.
  void Wake() { wake_.Signal(); }

 private:
  struct Events;

  const std::unique_ptr<Events> events_;  // where the system puts them
  int epoll_ = -1;
  WakeEvent wake_;  // watched edge-triggered, so it never needs to be read
};

}  // namespace iocp
