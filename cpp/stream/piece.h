// A part of a gathered send.
#pragma once

#include <cstddef>

namespace iocp {

// A piece of a gathered send. Laid out like iovec.
struct Piece {
  const void* data;
  std::size_t size;
};

inline constexpr std::size_t kMaxPieces = 64;

}  // namespace iocp
