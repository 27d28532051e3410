// Bytes that are known by their place in their stream, so that nobody has to keep them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace iocp::sim {

class Pattern {
 public:
  explicit Pattern(std::uint64_t seed) : seed_(seed) {}

  [[nodiscard]] std::string At(std::uint64_t offset, std::size_t size) const {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = ByteAt(offset + i);
    return bytes;
  }
  [[nodiscard]] bool Is(std::uint64_t offset, std::string_view bytes) const {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] != ByteAt(offset + i)) return false;
    }
    return true;
  }

 private:
  [[nodiscard]] char ByteAt(std::uint64_t place) const {
    const std::uint64_t mixed = (seed_ + place) * 0x9e3779b97f4a7c15U;
    return static_cast<char>(mixed >> 56U);
  }

  const std::uint64_t seed_;
};

}  // namespace iocp::sim
