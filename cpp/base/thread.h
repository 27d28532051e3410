// A thread with a name, and with room for hooks on its stack.
#pragma once

#include <cstddef>
#include <functional>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace iocp {

// Join or Detach must be called, once.
class Thread {
 public:
  // Bytes of stack, where the system's default is smaller (musl has 128 KiB).
  static constexpr std::size_t kLeastStack = std::size_t{1} << 20U;

  // Runs `main`, which must not throw. Only the first 15 bytes of `name` count. Throws
  // std::system_error when the system has no more threads.
  Thread(const char* name, std::function<void()> main);
  Thread(Thread&&) = default;
  Thread& operator=(Thread&&) = default;

  void Join();
  void Detach();

 private:
#ifdef _WIN32
  std::thread thread_;
#else
  pthread_t thread_{};
#endif
};

}  // namespace iocp
