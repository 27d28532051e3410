// The report of a stage of TLS about itself.
#pragma once

#include <atomic>
#include <string>

#include "iocp/tls.h"

namespace iocp {

struct TlsReport {
  // True exactly when the handshake is done. `info` is constant from then on, for any thread.
  std::atomic<bool> done{false};
  TlsInfo info;
  // Why TLS has failed: the cause, and a sentence. They belong to the owner.
  TlsFailure failure = TlsFailure::kPeerLeft;
  std::string fault;
};

}  // namespace iocp
