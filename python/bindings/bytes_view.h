// The bytes of a bytes-like object.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>

namespace iocp::python {

// Keeps the object's memory where it is for as long as this lives. GIL.
class BytesView {
 public:
  BytesView() = default;
  BytesView(BytesView&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  BytesView(const BytesView&) = delete;
  BytesView& operator=(const BytesView&) = delete;
  BytesView& operator=(BytesView&&) = delete;
  ~BytesView() {
    if (view_.obj != nullptr) PyBuffer_Release(&view_);
  }

  // False with an error set that says what `function` needs.
  bool Open(PyObject* object, const char* function);
  [[nodiscard]] std::string_view bytes() const {
    return {static_cast<const char*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

}  // namespace iocp::python
