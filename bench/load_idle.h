// The memory of idle connections.
#pragma once

#include "load_options.h"
#include "load_stream.h"

namespace load {

// Opens connections one after the other; each gets one message back, and then stays as it is.
// Prints by how much the server grew for each, without the first ones, which pay for what a server
// makes once.
void RunIdle(const Options& options, TlsClient* tls);

}  // namespace load
