#include <algorithm>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

#include "base/thread.h"

namespace iocp {
namespace {

constexpr std::size_t kLongestName = 15;  // what Linux keeps of it

struct Task {
  char name[kLongestName + 1]{};
  std::function<void()> main;
};

void* Run(void* argument) {
  const std::unique_ptr<Task> task(static_cast<Task*>(argument));
#ifdef __APPLE__
  ::pthread_setname_np(task->name);
#else
  ::pthread_setname_np(::pthread_self(), task->name);
#endif
  task->main();
  return nullptr;
}

}  // namespace

Thread::Thread(const char* name, std::function<void()> main) {
  auto task = std::make_unique<Task>();
  std::memcpy(task->name, name, std::min(std::strlen(name), kLongestName));
  task->main = std::move(main);

  pthread_attr_t attributes;
  int code = ::pthread_attr_init(&attributes);
  if (code == 0) {
    std::size_t size = 0;
    ::pthread_attr_getstacksize(&attributes, &size);
    if (size < kLeastStack) ::pthread_attr_setstacksize(&attributes, kLeastStack);
    code = ::pthread_create(&thread_, &attributes, &Run, task.get());
    ::pthread_attr_destroy(&attributes);
  }
  if (code != 0) throw std::system_error(code, std::generic_category());
  static_cast<void>(task.release());  // the thread's
}

void Thread::Join() { ::pthread_join(thread_, nullptr); }
void Thread::Detach() { ::pthread_detach(thread_); }

}  // namespace iocp
