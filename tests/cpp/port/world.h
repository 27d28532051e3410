// The world of the conformance suite: a kind of port and clients for it.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>

#include "peer.h"
#include "port/completion_port.h"

namespace iocp::testing {

// Longer than any test needs, so that it is reached only by one that has failed.
inline constexpr std::chrono::seconds kPatience{20};
inline constexpr const char* kNoDescriptorLimit = "this system's descriptors cannot be used up";
// For showing that nothing comes. Too short, it can hide a defect, but never make one up.
inline constexpr std::chrono::milliseconds kQuiet{25};

// More than loopback sockets hold by themselves, so that sends have to wait.
inline constexpr std::size_t kMoreThanFits = std::size_t{24} * 1024 * 1024;

class World {
 public:
  World() = default;
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  virtual ~World() = default;

  [[nodiscard]] virtual const PortKind& kind() const = 0;
  // True exactly when this system has to be able to run the port: a reason not to is a failure.
  [[nodiscard]] virtual bool required() const = 0;
  // True exactly when threads, time and the system are real.
  [[nodiscard]] virtual bool real() const = 0;
  [[nodiscard]] virtual bool has_ipv6() const = 0;
  // Null when nobody listens there.
  virtual std::unique_ptr<Peer> Connect(const Address& to) = 0;
  // PortOptions::initial_reads of every port that is made in this world.
  [[nodiscard]] virtual int initial_reads() const { return PortOptions{}.initial_reads; }
  // True exactly when every reset is seen as one: by the peer that Close sends it to, and by a port
  // that was not receiving when it came.
  [[nodiscard]] virtual bool faithful_resets() const = 0;
  // True exactly when a port can say what a peer has not acknowledged.
  [[nodiscard]] virtual bool knows_unacknowledged() const = 0;
  // True exactly when a reset is reported while the receive is paused.
  [[nodiscard]] virtual bool sees_resets_while_paused() const = 0;
  // The processor time of this process, all threads together.
  [[nodiscard]] virtual std::chrono::nanoseconds ProcessorTime() const = 0;
  // True exactly when descriptors can be used up.
  [[nodiscard]] virtual bool has_descriptor_limit() const = 0;
  // From true to false nobody gets another descriptor, but one client that still connects.
  virtual void ExhaustDescriptors(bool exhausted) = 0;
  // Descriptors, or what a leak would show up in.
  [[nodiscard]] virtual std::size_t OpenDescriptors() const = 0;
};

struct WorldParam {
  std::string name;
  std::function<std::unique_ptr<World>()> create;
};
inline std::ostream& operator<<(std::ostream& out, const WorldParam& param) {
  return out << param.name;
}

// Bytes that look like no other bytes.
inline std::string Pattern(std::size_t size, std::uint32_t seed) {
  std::string bytes(size, '\0');
  seed = seed * 2654435761U + 1;
  for (char& byte : bytes) {
    seed = seed * 1664525U + 1013904223U;
    byte = static_cast<char>(seed >> 24U);
  }
  return bytes;
}

// Compares streams, which nobody wants to see printed.
inline ::testing::AssertionResult IsPrefix(std::string_view got, std::string_view want) {
  const std::size_t common = std::min(got.size(), want.size());
  const auto differ =
      std::mismatch(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(common), want.begin());
  const auto at = static_cast<std::size_t>(differ.first - got.begin());
  if (at == got.size()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "wrong from byte " << at << " on; got " << got.size() << " of " << want.size();
}
inline ::testing::AssertionResult IsSame(std::string_view got, std::string_view want) {
  if (got.size() < want.size()) {
    return ::testing::AssertionFailure() << "got " << got.size() << " of " << want.size()
                                         << (IsPrefix(got, want) ? "" : ", and they are wrong");
  }
  return IsPrefix(got, want);
}

}  // namespace iocp::testing
