// A server's stage of TLS, and a client of OpenSSL whose bytes are cut, changed, lost and made up
// by chance. The bytes that each side gets are compared with those that the other has sent.
#pragma once

#include <cstddef>
#include <string>

#include "sim/choices.h"

namespace iocp::testing {

struct TlsDifferential {
  std::string failure;        // "": no rule was broken
  std::size_t delivered = 0;  // bytes of the client
  bool connected = false;     // true exactly when the handshake was done
  bool refused = false;       // true exactly when the stage has failed
};

TlsDifferential CompareTls(sim::Choices& choices);

}  // namespace iocp::testing
