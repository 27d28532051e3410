// The ports of Linux: which of them this library was built with.
#include "port/readiness/readiness_port.h"
#ifdef IOCP_HAVE_URING
#include "port/uring/uring_port.h"
#endif

namespace iocp {

PortKinds BuiltInPortKinds() {
#ifdef IOCP_HAVE_URING
  // By what the bench shows: docs/evidence/performance.md has the figures.
  static constexpr const PortKind* kKinds[] = {&kUringPortKind, &kReadinessPortKind};
#else
  static constexpr const PortKind* kKinds[] = {&kReadinessPortKind};
#endif
  return {kKinds, std::size(kKinds)};
}

std::vector<BackendInfo> AbsentBackends() {
  std::vector<BackendInfo> absent;
#ifndef IOCP_HAVE_URING
  absent.push_back({"io_uring", false,
                    "not compiled in: liburing was not found when this was built; install "
                    "liburing-dev and build again"});
#endif
  absent.push_back({"iocp", false, "only on Windows; this is Linux"});
  return absent;
}

}  // namespace iocp
