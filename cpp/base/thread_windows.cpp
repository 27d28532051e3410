#include <utility>

#include "base/thread.h"

namespace iocp {

// The default stack is 1 MiB. A name would need Windows 10; debuggers do without.
Thread::Thread(const char* /*name*/, std::function<void()> main) : thread_(std::move(main)) {}

void Thread::Join() { thread_.join(); }
void Thread::Detach() { thread_.detach(); }

}  // namespace iocp
