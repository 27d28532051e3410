// The memory of idle connections.
#pragma once

#include "load_options.h"
#include "load_stream.h"

namespace load {

// Opens connections one after the other; each gets one message back, and then stays as it is.
// Prints by how much the server's memory has grown for each. It leaves out the first ones, since a
// server makes some things once.
void RunIdle(const Options& options, TlsClient* tls);

}  // namespace load
