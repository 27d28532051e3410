#include "options.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <string>

#include "framing_type.h"
#include "tls_type.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

std::string TypeName(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

[[noreturn]] void WrongType(const char* name, const char* wanted, py::handle value) {
  throw py::type_error(std::string(name) + " must be " + wanted + ", not " + TypeName(value));
}

std::string Text(const char* name, py::handle value) {
  if (!PyUnicode_Check(value.ptr())) WrongType(name, "a str", value);
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (text == nullptr) PyErr_Clear();
  std::string copy(text == nullptr ? "" : text, static_cast<std::size_t>(size));
  // The system's functions would read it only up to a NUL.
  if (text == nullptr || copy.find('\0') != std::string::npos) {
    throw py::value_error(std::string(name) +
                          " must be text without surrogates or NUL characters, not " +
                          py::cast<std::string>(py::repr(value)));
  }
  return copy;
}

bool Truth(const char* name, py::handle value) {
  if (!PyBool_Check(value.ptr())) WrongType(name, "a bool", value);
  return value.ptr() == Py_True;
}

template <typename Number>
Number Integer(const char* name, py::handle value) {
  // True is an int to Python; as an option it is a mistake.
  if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) WrongType(name, "an int", value);
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow == 0 && number == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  if (overflow != 0 || !std::in_range<Number>(number)) {
    throw py::value_error(std::string(name) +
                          " is out of range: " + py::cast<std::string>(py::str(index)));
  }
  return static_cast<Number>(number);
}

Duration Seconds(const char* name, py::handle value) {
  const double seconds = NumberOfSeconds(name, value);
  constexpr double kMost = 9.0e9;  // what nanoseconds in 64 bits can hold
  if (!std::isfinite(seconds) || std::fabs(seconds) > kMost) {
    throw py::value_error(std::string(name) + " must be a finite number of seconds, not " +
                          py::cast<std::string>(py::str(value)));
  }
  // To the nearest nanosecond, so that a value which is asked for is the one that was set.
  return std::chrono::round<Duration>(std::chrono::duration<double>(seconds));
}

template <typename Value, typename Convert>
std::optional<Value> OrNone(const char* name, py::handle value, Convert convert) {
  if (value.is_none()) return std::nullopt;
  return convert(name, value);
}

std::optional<KeepAlive> KeepAlivePair(const char* name, py::handle value) {
  if (value.is_none()) return std::nullopt;
  const char* wanted = "a pair (idle seconds, interval seconds) or None";
  if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr())) WrongType(name, wanted, value);
  const auto pair = py::reinterpret_borrow<py::sequence>(value);
  if (pair.size() != 2) {
    throw py::value_error(std::string(name) + " must be " + wanted);
  }
  return KeepAlive{Seconds("keepalive idle", py::object(pair[0])),
                   Seconds("keepalive interval", py::object(pair[1]))};
}

template <typename Enum>
Enum Choice(const char* name, py::handle value, const char* first, Enum if_first,
            const char* second, Enum if_second) {
  const std::string text = Text(name, value);
  if (text == first) return if_first;
  if (text == second) return if_second;
  throw py::value_error(std::string(name) + " must be '" + first + "' or '" + second + "', not '" +
                        text + "'");
}

using Setter = void (*)(Options&, const char*, py::handle);

struct Entry {
  const char* name;
  Setter set;
};

// One row for each option.
constexpr Entry kEntries[] = {
    {"host", [](Options& o, const char* n, py::handle v) { o.host = Text(n, v); }},
    {"port", [](Options& o, const char* n, py::handle v) { o.port = Integer<int>(n, v); }},
    {"backend", [](Options& o, const char* n, py::handle v) { o.backend = Text(n, v); }},
    {"workers", [](Options& o, const char* n, py::handle v) { o.workers = Integer<int>(n, v); }},
    {"max_connections",
     [](Options& o, const char* n, py::handle v) { o.max_connections = Integer<int>(n, v); }},
    {"at_capacity",
     [](Options& o, const char* n, py::handle v) {
       o.at_capacity = Choice(n, v, "refuse", AtCapacity::kRefuse, "wait", AtCapacity::kWait);
     }},
    {"listen_backlog",
     [](Options& o, const char* n, py::handle v) { o.listen_backlog = Integer<int>(n, v); }},
    {"initial_accepts",
     [](Options& o, const char* n, py::handle v) { o.initial_accepts = Integer<int>(n, v); }},
    {"max_accepts",
     [](Options& o, const char* n, py::handle v) { o.max_accepts = Integer<int>(n, v); }},
    {"initial_reads",
     [](Options& o, const char* n, py::handle v) { o.initial_reads = Integer<int>(n, v); }},
    {"buffer_size",
     [](Options& o, const char* n, py::handle v) { o.buffer_size = Integer<std::size_t>(n, v); }},
    {"max_free_buffers",
     [](Options& o, const char* n, py::handle v) { o.max_free_buffers = Integer<int>(n, v); }},
    {"max_free_contexts",
     [](Options& o, const char* n, py::handle v) { o.max_free_contexts = Integer<int>(n, v); }},
    {"send_backlog_limit", [](Options& o, const char* n,
                              py::handle v) { o.send_backlog_limit = Integer<std::size_t>(n, v); }},
    {"max_pending_sends",
     [](Options& o, const char* n, py::handle v) {
       o.max_pending_sends = OrNone<int>(n, v, &Integer<int>);
     }},
    {"write_high_water", [](Options& o, const char* n,
                            py::handle v) { o.write_high_water = Integer<std::size_t>(n, v); }},
    {"write_low_water", [](Options& o, const char* n,
                           py::handle v) { o.write_low_water = Integer<std::size_t>(n, v); }},
    {"flow_control", [](Options& o, const char* n, py::handle v) { o.flow_control = Truth(n, v); }},
    {"framing", [](Options& o, const char* n, py::handle v) { o.framing = FramingOf(n, v); }},
    {"tls", [](Options& o, const char* n, py::handle v) { o.tls = ServerTlsOf(n, v); }},
    {"established_on",
     [](Options& o, const char* n, py::handle v) {
       o.established_on = Choice(n, v, "connect", EstablishedOn::kConnect, "first_data",
                                 EstablishedOn::kFirstData);
     }},
    {"first_data_timeout",
     [](Options& o, const char* n, py::handle v) { o.first_data_timeout = Timeout(n, v); }},
    {"idle_timeout",
     [](Options& o, const char* n, py::handle v) { o.idle_timeout = Timeout(n, v); }},
    {"receive_timeout",
     [](Options& o, const char* n, py::handle v) { o.receive_timeout = Timeout(n, v); }},
    {"message_timeout",
     [](Options& o, const char* n, py::handle v) { o.message_timeout = Timeout(n, v); }},
    {"write_timeout",
     [](Options& o, const char* n, py::handle v) { o.write_timeout = Timeout(n, v); }},
    {"close_timeout",
     [](Options& o, const char* n, py::handle v) { o.close_timeout = Seconds(n, v); }},
    {"keepalive",
     [](Options& o, const char* n, py::handle v) { o.keepalive = KeepAlivePair(n, v); }},
    {"no_delay", [](Options& o, const char* n, py::handle v) { o.no_delay = Truth(n, v); }},
    {"reuse_port", [](Options& o, const char* n, py::handle v) { o.reuse_port = Truth(n, v); }},
    {"dual_stack", [](Options& o, const char* n, py::handle v) { o.dual_stack = Truth(n, v); }},
};

}  // namespace

double NumberOfSeconds(const char* name, py::handle value) {
  if (PyBool_Check(value.ptr()) || (!PyFloat_Check(value.ptr()) && !PyIndex_Check(value.ptr()))) {
    WrongType(name, "a number of seconds", value);
  }
  const double seconds = PyFloat_AsDouble(value.ptr());
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw py::value_error(std::string(name) + " is out of range");
  }
  return seconds;
}

std::optional<Duration> Timeout(const char* name, py::handle value) {
  return OrNone<Duration>(name, value, &Seconds);
}

Options OptionsFromDict(const py::dict& values) {
  Options options;
  for (const auto& [key, value] : values) {
    const auto name = py::cast<std::string>(key);
    const auto* entry = std::find_if(std::begin(kEntries), std::end(kEntries),
                                     [&](const Entry& row) { return name == row.name; });
    if (entry == std::end(kEntries)) throw py::type_error("there is no option '" + name + "'");
    entry->set(options, entry->name, value);
  }
  return options;
}

}  // namespace iocp::python
