#include "tls_type.h"

#include <pybind11/stl.h>

#include <map>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "gil.h"
#include "options.h"

namespace py = pybind11;

namespace iocp::python {
namespace {

// The class that Python sees.
struct NativeTls {
  Tls tls;
};

// Python's class checks types; the engine checks files and ranges.
TlsVersion Version(const std::string& version) {
  return version == "1.3" ? TlsVersion::kTls13 : TlsVersion::kTls12;
}

TlsVerify Verify(const std::string& verify) {
  if (verify == "optional") return TlsVerify::kOptional;
  return verify == "required" ? TlsVerify::kRequired : TlsVerify::kNone;
}

// A sentence that may have the names of files in it.
py::object FileSystemText(const std::string& text) {
  PyObject* const decoded = PyUnicode_DecodeFSDefault(text.c_str());
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

// Reads the files, and makes the first context, without the GIL.
template <typename Options>
NativeTls Make(Tls (*make)(const Options&), const Options& options) {
  try {
    const WithoutGil released;
    return {make(options)};
  } catch (const TlsError& error) {
    // The GIL is here again.
    const py::object fault = py::make_tuple(FileSystemText(error.what()), error.code());
    PyErr_SetObject(TlsFaultType(), fault.ptr());
    throw py::error_already_set();
  }
}

template <typename Options>
void SetCommon(Options* options, const py::dict& values) {
  const auto text = [&](const char* name) { return values[name].cast<std::string>(); };
  options->certificate_file = text("certfile");
  options->key_file = text("keyfile");
  options->password = text("password");
  options->ca_file = text("ca");
  options->alpn = values["alpn"].cast<std::vector<std::string>>();
  options->min_version = Version(text("min_version"));
  if (!values["max_version"].is_none()) options->max_version = Version(text("max_version"));
  options->ciphers = text("ciphers");
  // The engine refuses 0.
  options->handshake_timeout = Timeout("handshake_timeout", py::object(values["handshake_timeout"]))
                                   .value_or(Duration::zero());
  options->allow_truncation = values["allow_truncation"].cast<bool>();
}

NativeTls NewServer(const py::dict& values) {
  TlsServerOptions options;
  SetCommon(&options, values);
  options.verify = Verify(values["verify"].cast<std::string>());
  for (const auto& [name, other] : values["sni"].cast<py::dict>()) {
    options.sni.emplace(name.cast<std::string>(), other.cast<const NativeTls&>().tls);
  }
  options.session_tickets = values["session_tickets"].cast<bool>();
  options.ticket_keys = values["ticket_keys"].cast<std::vector<std::string>>();
  return Make(&Tls::Server, options);
}

NativeTls NewClient(const py::dict& values) {
  TlsClientOptions options;
  SetCommon(&options, values);
  options.verify = values["verify"].cast<bool>();
  options.server_name = values["server_name"].cast<std::string>();
  return Make(&Tls::Client, options);
}

// Whether it is a context of Python's module `ssl`. The question alone does not import that.
bool IsSslContext(py::handle value) {
  const py::object ssl =
      py::reinterpret_steal<py::object>(PyImport_GetModule(py::str("ssl").ptr()));
  if (!ssl) {
    PyErr_Clear();
    return false;
  }
  return py::isinstance(value, ssl.attr("SSLContext"));
}

// A name that a peer has sent, which may be any bytes; None for none.
py::object NameOrNone(const std::string& name) {
  if (name.empty()) return py::none();
  PyObject* const text =
      PyUnicode_DecodeUTF8(name.data(), static_cast<Py_ssize_t>(name.size()), "backslashreplace");
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(text);
}

}  // namespace

Tls TlsOf(const char* name, py::handle value) {
  if (value.is_none()) return {};
  const py::object native = py::getattr(value, "_native", py::none());
  if (py::isinstance<NativeTls>(native)) return native.cast<const NativeTls&>().tls;
  if (IsSslContext(value)) {
    throw py::type_error(std::string(name) +
                         " must be an iocp_bind.TLS, not an ssl.SSLContext, whose handshakes would "
                         "take the GIL: give the same files to iocp_bind.TLS(certfile, keyfile)");
  }
  throw py::type_error(std::string(name) +
                       " must be an iocp_bind.TLS, such as iocp_bind.TLS('cert.pem', "
                       "'key.pem'), not " +
                       Py_TYPE(value.ptr())->tp_name);
}

Tls ServerTlsOf(const char* name, py::handle value) {
  Tls tls = TlsOf(name, value);
  if (!tls || tls.is_server()) return tls;
  throw py::value_error(std::string(name) +
                        " must be the TLS of a server: make it with iocp_bind.TLS(certfile, "
                        "keyfile), and not with iocp_bind.TLS.client()");
}

PyObject* MakeTlsInfo(const std::optional<TlsInfo>& info) {
  if (!info) Py_RETURN_NONE;
  try {
    const std::string& certificate = info->peer_certificate;
    const py::object der = certificate.empty() ? py::object(py::none()) : py::bytes(certificate);
    return py::module_::import("iocp_bind._tls")
        .attr("TLSInfo")(info->version, info->cipher, NameOrNone(info->alpn),
                         NameOrNone(info->server_name), der, info->resumed)
        .release()
        .ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

void RegisterTls(py::module_& module) {
  py::class_<NativeTls>(module, "NativeTLS")
      .def("certificate_warning", [](const NativeTls& native) {
        return FileSystemText(native.tls.certificate_warning());
      });
  module.def("_tls_server", &NewServer);
  module.def("_tls_client", &NewClient);
  module.def("_tls_library", [] {
    const TlsLibraryInfo info = TlsLibrary();
    return py::make_tuple(info.available, info.version, info.reason);
  });
}

}  // namespace iocp::python
