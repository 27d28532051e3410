// Where all chance in a simulation comes from: one seed, or the bytes that a fuzzer made up. The
// same seed, or the same bytes, make the same run.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace iocp::sim {

class Choices {
 public:
  explicit Choices(std::uint64_t seed) : state_(seed) {}
  // `bytes` outlive this. When they are used up every choice is the first one, and no fault occurs.
  Choices(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), left_(size) {}

  // Choices of their own, from the last `size` bytes. Those that a run did not always have come
  // from here, so that the bytes before them keep their meaning.
  Choices SplitOff(std::size_t size) {
    if (bytes_ == nullptr) return Choices(state_ ^ 0x6a09e667f3bcc908U);
    const std::size_t taken = std::min(size, left_);
    left_ -= taken;
    return Choices(bytes_ + left_, taken);
  }

  // 0 to `count` - 1.
  std::uint64_t Below(std::uint64_t count) {
    if (count <= 1) return 0;
    return (bytes_ == nullptr ? Next() : Taken(count)) % count;
  }
  std::size_t Between(std::size_t low, std::size_t high) {
    return low + static_cast<std::size_t>(Below(high - low + 1));
  }
  // As likely small as large: 1 to `most`.
  std::size_t Size(std::size_t most) {
    std::size_t bound = 1;
    for (std::uint64_t doublings = Below(24); doublings > 0 && bound < most; --doublings)
      bound *= 2;
    return Between(1, std::min(bound, most));
  }
  bool Chance(double probability) {
    constexpr std::uint64_t kSteps = 1U << 16U;
    return probability > 0 &&
           static_cast<double>(Below(kSteps)) >= static_cast<double>(kSteps) * (1 - probability);
  }
  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return values.begin()[Below(values.size())];
  }

 private:
  // SplitMix64, by Sebastiano Vigna: https://prng.di.unimi.it/splitmix64.c (public domain).
  std::uint64_t Next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31U);
  }
  // As few bytes as the number of choices needs, so that a fuzzer has much say with little.
  std::uint64_t Taken(std::uint64_t count) {
    std::uint64_t value = 0;
    for (std::uint64_t reach = count - 1; reach > 0 && left_ > 0; reach >>= 8U) {
      value = value << 8U | *bytes_++;
      --left_;
    }
    return value;
  }

  std::uint64_t state_ = 0;
  const std::uint8_t* bytes_ = nullptr;
  std::size_t left_ = 0;
};

}  // namespace iocp::sim
