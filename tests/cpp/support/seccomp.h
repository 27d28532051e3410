// A system that refuses calls from now on, as the filter of a container or a sandbox does. Linux.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace iocp::testing {

// The calls that a port waits with, on any architecture.
inline std::vector<long> CallsThatWait() {
  return {
      SYS_io_uring_enter,
      SYS_epoll_pwait,
#ifdef SYS_epoll_wait
      SYS_epoll_wait,
#endif
  };
}

// The calling thread gets `error_number` for these calls until it ends; so do threads that it
// makes. False when the system does not let it set a filter.
inline bool Refuse(const std::vector<long>& calls, int error_number = EPERM) {
  std::vector<sock_filter> program;
  program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  const std::uint32_t refused =
      SECCOMP_RET_ERRNO | (static_cast<std::uint32_t>(error_number) & SECCOMP_RET_DATA);
  for (const long call : calls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, refused));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0;
}

}  // namespace iocp::testing
