// What there is where the library was built without OpenSSL.
#include "iocp/tls.h"
#include "stage/tls/tls_stage.h"

namespace iocp {
namespace {

constexpr const char* kReason =
    "not compiled in: OpenSSL 3.0 was not found when this was built; install libssl-dev and build "
    "again";

}  // namespace

TlsLibraryInfo TlsLibrary() { return {false, "", kReason}; }
Tls Tls::Server(const TlsServerOptions&) { throw TlsError(std::string("no TLS: ") + kReason); }
Tls Tls::Client(const TlsClientOptions&) { throw TlsError(std::string("no TLS: ") + kReason); }
bool Tls::is_server() const { return false; }

void PrepareTls(const Tls&, std::size_t) {}
std::unique_ptr<Stage> MakeTlsStage(const Tls&, std::size_t) { return nullptr; }
Duration HandshakeTimeout(const Tls&) { return {}; }

}  // namespace iocp
