// Whether this system lets us use io_uring, why not, and setting up a ring on whatever kernel it
// is.
#pragma once

#include <liburing.h>

#include <string>

namespace iocp {

// How a ring is created; a test puts a system that refuses things in its place.
using RingSetUp = int (*)(unsigned entries, io_uring* ring, io_uring_params* params);

// Creates a ring for the calling thread, the only one that may use it then. Gives up what the
// kernel does not know, one thing at a time, and makes do with a smaller ring when memory is short.
// 0, or a negative errno.
int SetUpRing(io_uring* ring, RingSetUp set_up = io_uring_queue_init_params);

// "" when io_uring works here with all that the port needs; otherwise why not, for a user. It tries
// everything out until that has worked once: a shortage passes, and a start that lacks something
// later says at which step. Any thread.
std::string WhyUringIsUnavailable();

// The sentence for a refused ring, a pure function. `io_uring_disabled` is the value of
// /proc/sys/kernel/io_uring_disabled, -1 where there is none; `kernel` the system's release.
std::string ExplainRefusal(int error_number, int io_uring_disabled, const std::string& kernel);

// This kernel's release, "6.1.0-18-amd64".
std::string KernelRelease();

}  // namespace iocp
