// The bytes that iocp_load sends and expects back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "load_options.h"

namespace load {

// Pseudo-random bytes, repeated, each connection starting somewhere else, so that bytes that are
// lost, doubled, swapped or another connection's do not match. With a framing they are messages,
// one after the other, and a connection starts with one of them. The period is short so that it
// stays in the cache; any piece up to kWindow bytes is contiguous in memory.
class Pattern {
 public:
  static constexpr std::size_t kWindow = 256 * 1024;

  explicit Pattern(const Options& options)
      : unit_(options.framing == Framing::kNone ? 1 : options.message_size()),
        count_(PrimeFrom(std::max(kLeastUnits, kBytes / unit_))),
        period_(unit_ * count_),
        bytes_(period_ + kWindow) {
    std::uint64_t state = 0x9E3779B97F4A7C15U;
    for (std::size_t i = 0; i < period_; ++i) {
      state ^= state << 13U;
      state ^= state >> 7U;
      state ^= state << 17U;
      bytes_[i] = static_cast<char>(state >> 32U);
    }
    if (options.http) MakePath();
    if (options.framing == Framing::kLengthPrefix) AddLengths(options.bytes);
    if (options.framing == Framing::kLines) EndLines();
    for (std::size_t i = period_; i < bytes_.size(); ++i) bytes_[i] = bytes_[i - period_];
  }

  [[nodiscard]] std::size_t Start(std::uint64_t connection) const {
    return static_cast<std::size_t>(connection * 7919 % count_) * unit_;
  }

  [[nodiscard]] std::size_t Advance(std::size_t position, std::size_t count) const {
    position += count;
    return position < period_ ? position : position % period_;
  }

  [[nodiscard]] const char* At(std::size_t position) const { return bytes_.data() + position; }

 private:
  static constexpr std::size_t kBytes = 16381;
  static constexpr std::size_t kLeastUnits = 7;

  // The smallest prime that is not below `least`: whatever is sent in one piece, it is no part of
  // the period.
  static std::size_t PrimeFrom(std::size_t least) {
    const auto prime = [](std::size_t number) {
      for (std::size_t divisor = 2; divisor * divisor <= number; ++divisor) {
        if (number % divisor == 0) return false;
      }
      return true;
    };
    while (!prime(least)) ++least;
    return least;
  }

  void AddLengths(std::size_t payload) {
    for (std::size_t at = 0; at < period_; at += unit_) {
      for (std::size_t i = 0; i < kLengthSize; ++i) {
        bytes_[at + i] = static_cast<char>(payload >> (8 * (kLengthSize - 1 - i)) & 0xFFU);
      }
    }
  }

  // Letters, which a path may contain.
  void MakePath() {
    for (char& byte : bytes_) byte = static_cast<char>('a' + static_cast<unsigned char>(byte) % 26);
  }

  void EndLines() {
    std::replace(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(period_), '\n', ' ');
    for (std::size_t at = unit_; at <= period_; at += unit_) bytes_[at - 1] = '\n';
  }

  std::size_t unit_;   // a byte, or a message
  std::size_t count_;  // of units; prime
  std::size_t period_;
  std::vector<char> bytes_;
};

}  // namespace load
