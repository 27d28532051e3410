// Reports to the sanitizers which memory the kernel uses through a ring. They see the memory of
// system calls, as of recv and send, but not that of a ring's operations. With these functions they
// check both alike. Without a sanitizer the functions do nothing.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IOCP_REPORT_TO_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IOCP_REPORT_TO_SANITIZER 1
#endif
#endif

#ifdef IOCP_REPORT_TO_SANITIZER
// As in <sanitizer/linux_syscall_hooks.h>, which comes with clang only; the functions are in the
// run-time libraries of both compilers.
extern "C" {
void __sanitizer_syscall_pre_impl_write(long fd, long data, long size);
void __sanitizer_syscall_post_impl_read(long result, long fd, long data, long size);
}
#endif

namespace iocp {

// The kernel reads these bytes, or may have done so until now: they must be alive, and no other
// thread may write to them.
inline void KernelReads([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t size) {
#ifdef IOCP_REPORT_TO_SANITIZER
  __sanitizer_syscall_pre_impl_write(0, reinterpret_cast<long>(data), static_cast<long>(size));
#endif
}

// The kernel has written these bytes: they must be alive, and no other thread may use them.
inline void KernelWrote([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t size) {
#ifdef IOCP_REPORT_TO_SANITIZER
  const auto bytes = static_cast<long>(size);
  __sanitizer_syscall_post_impl_read(bytes, 0, reinterpret_cast<long>(data), bytes);
#endif
}

}  // namespace iocp
