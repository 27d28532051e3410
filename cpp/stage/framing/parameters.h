// The checks of a framing's parameters.
#pragma once

#include <concepts>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace iocp {

inline constexpr std::uint64_t kLargestMessage = std::uint64_t{1} << 40U;

// Throws std::invalid_argument unless `value` is from `low` to `high`.
template <std::integral Number>
void CheckParameter(const char* name, Number value, std::type_identity_t<Number> low,
                    std::type_identity_t<Number> high) {
  if (value >= low && value <= high) return;
  throw std::invalid_argument(std::string(name) + " must be between " + std::to_string(low) +
                              " and " + std::to_string(high) + ", not " + std::to_string(value));
}

inline void CheckMaxSize(std::uint64_t max_size) {
  CheckParameter("max_size", max_size, 1, kLargestMessage);
}

}  // namespace iocp
