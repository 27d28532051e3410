#include "port/uring/uring_setup.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <iterator>
#include <memory>
#include <system_error>

#include "port/uring/uring_buffers.h"

namespace iocp {
namespace {

// Entries of the submission queue: more than one batch of completions usually asks for. A full
// queue costs one system call.
constexpr unsigned kSubmissions = 512;
// Entries of the completion queue for each one of submission. One multishot operation fills many,
// and a queue that overflows is slow and ends multishot operations.
constexpr unsigned kCompletionsPerSubmission = 8;
constexpr unsigned kFewestSubmissions = 32;

// Features to give up where the kernel answers EINVAL, the newest first. DEFER_TASKRUN needs
// SINGLE_ISSUER, so it goes first.
constexpr unsigned kPeel[] = {
    IORING_SETUP_DEFER_TASKRUN,  // completions are worked on when we wait, not in between
    IORING_SETUP_SINGLE_ISSUER,  // only this thread submits
    IORING_SETUP_COOP_TASKRUN,   // no interruption of the thread for a completion
    IORING_SETUP_CLAMP,          // a queue too large for this kernel becomes its largest
    IORING_SETUP_CQSIZE,         // the completion queue has the size we ask for
};

constexpr const char* kNeeded = "multishot receive needs Linux 6.0 or newer";

// Without a stream: it is asked when descriptors have run out too, and a sanitizer that looks at
// the type of a stream opens a pipe for it.
int ReadIoUringDisabled() {
  const int fd = ::open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  char digit = 0;
  const bool known = ::read(fd, &digit, 1) == 1 && digit >= '0' && digit <= '9';
  ::close(fd);
  return known ? digit - '0' : -1;
}

// Tries out what the port needs, on a small ring and a pair of sockets.
class Trial {
 public:
  Trial() = default;
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;
  ~Trial() {
    // Before the buffers that it may know of.
    if (has_ring_) io_uring_queue_exit(&ring_);
    for (const int fd : sockets_) {
      if (fd >= 0) ::close(fd);
    }
  }

  // 0, or a negative errno; -EINVAL where the kernel does not know what the port needs.
  int Run() {
    io_uring_params params{};
    const int refused = io_uring_queue_init_params(kEntries, &ring_, &params);
    if (refused < 0) return refused;
    has_ring_ = true;
    constexpr unsigned kFeatures = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP |
                                   IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL;
    if ((params.features & kFeatures) != kFeatures) return -EINVAL;
    const int no_buffers = buffers_.Register(&ring_, pool_.get(), false, 1);
    if (no_buffers < 0) return no_buffers;
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets_.data()) != 0) return -errno;
    return ReceiveOnce();
  }

 private:
  static constexpr unsigned kEntries = 8;
  struct ClosePool {
    void operator()(BufferPool* pool) const { pool->Close(); }
  };

  int ReceiveOnce() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    io_uring_prep_recv_multishot(sqe, sockets_[0], nullptr, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = UringBuffers::kGroup;
    if (::send(sockets_[1], "x", 1, MSG_NOSIGNAL) != 1) return -errno;
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec patience{1, 0};
    int result = 0;
    do {
      result = io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &patience, nullptr);
    } while (result == -EINTR);
    if (result < 0) return result;
    if (cqe == nullptr) return -ETIME;
    if (cqe->res < 0) return cqe->res;
    constexpr unsigned kFlags = IORING_CQE_F_BUFFER | IORING_CQE_F_MORE;
    return cqe->res == 1 && (cqe->flags & kFlags) == kFlags ? 0 : -EINVAL;
  }

  const std::unique_ptr<BufferPool, ClosePool> pool_{BufferPool::Create(64, 1)};
  UringBuffers buffers_;
  std::array<int, 2> sockets_{-1, -1};
  io_uring ring_{};
  bool has_ring_ = false;  // true exactly when ring_ was created
};

}  // namespace

int SetUpRing(io_uring* ring, RingSetUp set_up) {
  unsigned flags = 0;
  for (const unsigned flag : kPeel) flags |= flag;
  std::size_t peeled = 0;
  unsigned entries = kSubmissions;
  for (;;) {
    io_uring_params params{};
    params.flags = flags;
    if ((flags & IORING_SETUP_CQSIZE) != 0) params.cq_entries = kCompletionsPerSubmission * entries;
    const int result = set_up(entries, ring, &params);
    if (result == -EINVAL && peeled < std::size(kPeel)) {
      flags &= ~kPeel[peeled++];
    } else if (result == -ENOMEM && entries > kFewestSubmissions) {
      entries /= 2;
    } else if (result != -EINTR) {
      return result;
    }
  }
}

std::string WhyUringIsUnavailable() {
  // True exactly when a trial has succeeded in this process.
  static std::atomic<bool> worked{false};
  if (worked.load(std::memory_order_relaxed)) return "";
  const int refused = Trial().Run();
  if (refused != 0) return ExplainRefusal(-refused, ReadIoUringDisabled(), KernelRelease());
  worked.store(true, std::memory_order_relaxed);
  return "";
}

std::string ExplainRefusal(int error_number, int io_uring_disabled, const std::string& kernel) {
  const std::string sysctl = "/proc/sys/kernel/io_uring_disabled";
  switch (error_number) {
    case EPERM:
    case EACCES:
      if (io_uring_disabled == 2) {
        return "io_uring is switched off on this machine: " + sysctl +
               " is 2; an administrator can allow it with sysctl -w kernel.io_uring_disabled=0";
      }
      if (io_uring_disabled == 1) {
        return "io_uring is for privileged processes only on this machine: " + sysctl +
               " is 1; an administrator can allow it with sysctl -w kernel.io_uring_disabled=0, or "
               "by adding this user to the group in kernel.io_uring_group";
      }
      return std::string("io_uring is not permitted (") +
             (error_number == EPERM ? "EPERM" : "EACCES") +
             "): most likely the seccomp filter of a container, or a security module; Docker "
             "allows it with a seccomp profile that permits io_uring_setup, io_uring_enter and "
             "io_uring_register, or with --security-opt seccomp=unconfined";
    case ENOSYS:
      return "this kernel has no io_uring (ENOSYS): it is too old, was built without it, or a "
             "sandbox hides it; " +
             std::string(kNeeded) + ", this is " + kernel;
    case EINVAL:
      return "this kernel's io_uring is too old (EINVAL): " + std::string(kNeeded) + ", this is " +
             kernel;
    case ENOMEM:
      return "there is not enough memory for an io_uring (ENOMEM); raise the limit of locked "
             "memory (ulimit -l), or free some memory";
    case EMFILE:
    case ENFILE:
      return "there is no file descriptor left for an io_uring; raise the limit of open files "
             "(ulimit -n)";
    default:
      return "the system refused to create an io_uring: " +
             std::generic_category().message(error_number) + " (error " +
             std::to_string(error_number) + ")";
  }
}

std::string KernelRelease() {
  utsname name{};
  return ::uname(&name) == 0 ? name.release : "unknown";
}

}  // namespace iocp
