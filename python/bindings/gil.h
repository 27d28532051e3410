// The GIL: given back and taken again, also while the interpreter ends.
//
// An interpreter that is ending gives the GIL to nobody. CPython before 3.14 ends a thread that
// asks for it by unwinding the thread's frames, and a destructor or a noexcept function among them
// ends the process. With these classes such a thread waits forever instead, as it does from 3.14
// on.
#pragma once

#include <pybind11/pybind11.h>

namespace iocp::python {

// Takes the GIL with `state`, which this thread gave it back with.
void TakeGil(PyThreadState* state) noexcept;

// Gives the GIL back for as long as this lives.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() { TakeGil(state_); }

 private:
  PyThreadState* const state_;
};

// Holds the GIL for as long as this lives. On any thread, also on one that holds it already.
class WithGil {
 public:
  WithGil() noexcept;
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;
  ~WithGil() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_{};
};

}  // namespace iocp::python
