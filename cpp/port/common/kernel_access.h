// What the kernel does to our memory through a ring, told to the sanitizers. They see the memory of
// a system call, as epoll's recv and send are, but not that of an operation of a ring; with these
// they check both alike. Nothing at all without a sanitizer.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IOCP_TELL_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IOCP_TELL_SANITIZER 1
#endif
#endif

#ifdef IOCP_TELL_SANITIZER
// As in <sanitizer/linux_syscall_hooks.h>, which comes with clang only; the functions are in the
// run-time libraries of both compilers.
extern "C" {
void __sanitizer_syscall_pre_impl_write(long fd, long data, long size);
void __sanitizer_syscall_post_impl_read(long result, long fd, long data, long size);
}
#endif

namespace iocp {

// The kernel reads these bytes, or may have until now: they must live, and no other thread may
// write to them.
inline void KernelReads([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t size) {
#ifdef IOCP_TELL_SANITIZER
  __sanitizer_syscall_pre_impl_write(0, reinterpret_cast<long>(data), static_cast<long>(size));
#endif
}

// The kernel has written these bytes: they must live, and no other thread may look at them.
inline void KernelWrote([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t size) {
#ifdef IOCP_TELL_SANITIZER
  const auto bytes = static_cast<long>(size);
  __sanitizer_syscall_post_impl_read(bytes, 0, reinterpret_cast<long>(data), bytes);
#endif
}

}  // namespace iocp
