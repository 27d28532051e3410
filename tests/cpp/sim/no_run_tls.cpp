// A simulation without OpenSSL.
#include "run_tls.h"

namespace iocp::sim {

void RunTls::Prepare() {}
std::unique_ptr<RunTls> RunTls::Begin() { return nullptr; }

}  // namespace iocp::sim
