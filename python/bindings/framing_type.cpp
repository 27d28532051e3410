#include "framing_type.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace py = pybind11;

namespace iocp::python {
namespace {

using Native = std::shared_ptr<Framing>;

// Python's classes have the checks of types; ranges are checked by the engine.
Native Wrap(const FramingPtr& framing) { return std::const_pointer_cast<Framing>(framing); }

Native NewLengthPrefix(int size, bool little_endian, std::size_t offset, std::int64_t adjust,
                       std::optional<std::size_t> strip, std::size_t max_size) {
  return Wrap(LengthPrefix({size, little_endian, offset, adjust, strip, max_size}));
}

Native NewDelimiter(const std::vector<py::bytes>& delimiters, bool keep, std::size_t max_size) {
  std::vector<std::string> copies;
  copies.reserve(delimiters.size());
  for (const py::bytes& delimiter : delimiters) copies.emplace_back(delimiter);
  return Wrap(Delimiter(std::move(copies), keep, max_size));
}

}  // namespace

FramingPtr FramingOf(const char* name, py::handle value) {
  if (value.is_none()) return nullptr;
  const py::object native = py::getattr(value, "_native", py::none());
  if (!py::isinstance<Framing>(native)) {
    throw py::type_error(std::string(name) +
                         " must be None or a framing, such as iocp_bind.LengthPrefix(4), not " +
                         Py_TYPE(value.ptr())->tp_name);
  }
  return native.cast<Native>();
}

void RegisterFramings(py::module_& module) {
  const py::class_<Framing, Native> framing(module, "NativeFraming");
  module.def("_length_prefix", &NewLengthPrefix);
  module.def("_delimiter", &NewDelimiter);
  module.def("_fixed_size", [](std::size_t size) { return Wrap(FixedSize(size)); });
  module.def("_varint_prefix", [](std::size_t most) { return Wrap(VarintPrefix(most)); });
  module.def("_netstring", [](std::size_t most) { return Wrap(Netstring(most)); });
  module.def("_cobs", [](std::size_t most) { return Wrap(Cobs(most)); });
  module.def("_slip", [](std::size_t most) { return Wrap(Slip(most)); });
}

}  // namespace iocp::python
