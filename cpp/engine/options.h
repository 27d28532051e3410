// The check of a server's options.
#pragma once

#include "iocp/error.h"
#include "iocp/options.h"

namespace iocp {

// Ok, or kBadOption with a sentence that names the option, its value and its range.
Status ValidateOptions(const Options& options);

}  // namespace iocp
