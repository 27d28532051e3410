// The functions of TLS where the library was built without OpenSSL.
#include "iocp/tls.h"
#include "stage/tls/tls_stage.h"

namespace iocp {
namespace {

constexpr const char* kReason =
    "not compiled in: this was built with IOCP_TLS=OFF, or OpenSSL 3.0 was not found; install "
    "libssl-dev and build again without that option";

}  // namespace

TlsLibraryInfo TlsLibrary() { return {false, "", kReason}; }
Tls Tls::Server(const TlsServerOptions&) { throw TlsError(std::string("no TLS: ") + kReason); }
Tls Tls::Client(const TlsClientOptions&) { throw TlsError(std::string("no TLS: ") + kReason); }
bool Tls::is_server() const { return false; }
std::string Tls::certificate_warning() const { return {}; }

void PrepareTls(const Tls&, std::size_t) {}
std::unique_ptr<Stage> MakeTlsStage(const Tls&, std::size_t) { return nullptr; }
bool KnowsWhomToTrust(const Tls&) { return true; }
Duration HandshakeTimeout(const Tls&) { return {}; }

}  // namespace iocp
