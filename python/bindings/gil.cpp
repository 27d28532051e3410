#include "gil.h"

#include <chrono>
#include <thread>

namespace iocp::python {
namespace {

[[noreturn]] void WaitForTheEndOfTheProcess() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(24));
}

}  // namespace

// Python throws nothing: the handlers below catch the unwinding of a thread that is to end. It must
// not go on, and a handler that returned would end the process.

void TakeGil(PyThreadState* state) noexcept {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    WaitForTheEndOfTheProcess();
  }
}

WithGil::WithGil() noexcept {
  try {
    state_ = PyGILState_Ensure();
  } catch (...) {
    WaitForTheEndOfTheProcess();
  }
}

}  // namespace iocp::python
