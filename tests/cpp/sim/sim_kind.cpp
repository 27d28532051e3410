#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>

#include "sim_port.h"

namespace iocp::sim {
namespace {

std::string WhyUnavailable() { return {}; }

std::unique_ptr<CompletionPort> CreatePort(const PortOptions& options) {
  return std::make_unique<SimPort>(Network::Current(), options);
}

Status Listen(const ListenOptions& options, NativeSocket* listener, Address* bound) {
  const NativeSocket handle =
      Network::Current().OpenListener(static_cast<std::uint16_t>(options.port), bound);
  if (handle == kNoSocket) {
    return {Status::Problem::kSystem,
            {ErrorKind::kAddressInUse, EADDRINUSE},
            "cannot bind " + options.host + ":" + std::to_string(options.port)};
  }
  *listener = handle;
  return {};
}

void CloseListener(NativeSocket listener) { Network::Current().CloseListener(listener); }

}  // namespace

const PortKind kSimPortKind = {"simulated", &WhyUnavailable, &CreatePort, &Listen, &CloseListener};

}  // namespace iocp::sim
