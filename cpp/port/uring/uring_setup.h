// Finds out whether this system lets us use io_uring, and sets up a ring on any kernel that has it.
#pragma once

#include <liburing.h>

#include <string>

namespace iocp {

// How to create a ring. Tests substitute a system that refuses things.
using RingSetUp = int (*)(unsigned entries, io_uring* ring, io_uring_params* params);

// Creates a ring for the calling thread, which alone may use it. Gives up features that the kernel
// does not know, one at a time, and makes do with a smaller ring when memory is short. Returns 0,
// or a negative errno.
int SetUpRing(io_uring* ring, RingSetUp set_up = io_uring_queue_init_params);

// "" when io_uring works here with all that the port needs; otherwise why not, for a user. It tries
// everything out until that has worked once, because a shortage may pass. After that it answers ""
// at once: a start that fails later names the step itself. Any thread.
std::string WhyUringIsUnavailable();

// The sentence for a refused ring: a pure function. `io_uring_disabled` is the value of
// /proc/sys/kernel/io_uring_disabled, -1 where there is none; `kernel` is the system's release.
std::string ExplainRefusal(int error_number, int io_uring_disabled, const std::string& kernel);

// This kernel's release, as "6.1.0-18-amd64".
std::string KernelRelease();

}  // namespace iocp
