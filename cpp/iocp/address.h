// Socket addresses.
#pragma once

#include <cstdint>
#include <string>

namespace iocp {

// A socket address, IPv4 or IPv6, of no system's layout.
struct Address {
  enum class Family : std::uint8_t { kNone, kIPv4, kIPv6 };

  Family family = Family::kNone;
  std::uint16_t port = 0;    // host byte order
  std::uint32_t scope = 0;   // IPv6 zone, 0 for none
  std::uint8_t bytes[16]{};  // network byte order; IPv4 uses the first four

  // The numeric host, with a zone where there is one: "127.0.0.1", "::1", "fe80::1%eth0".
  // An IPv4 client of a dual-stack listener reads as IPv4.
  [[nodiscard]] std::string Host() const;
};

}  // namespace iocp
