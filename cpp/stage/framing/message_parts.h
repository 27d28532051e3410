// The bytes of a large message, as they came.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "iocp/buffer.h"

namespace iocp {

// Keeps receive buffers that are well filled, and copies of the others, so that it takes the
// memory of its bytes, and at most 64 KiB and a sixty-fourth of them more. All may throw
// std::bad_alloc.
class MessageParts {
 public:
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  // Bytes of memory that the parts take. For tests.
  [[nodiscard]] std::size_t memory() const;
  void Append(Buffer bytes);
  void Append(std::string_view bytes);
  // Copies `size` bytes from `offset` on to `to`. The bytes behind the last part are in `tail_`.
  void CopyTo(std::size_t offset, std::size_t size, char* to) const;
  // The parts, one after the other, as buffers. Empty afterwards.
  std::vector<Buffer> Take();
  void Clear();

  // Bytes of the frame behind the parts, in a buffer that the caller keeps.
  void set_tail(std::string_view tail) { tail_ = tail; }
  // Where the message begins in the frame.
  void set_begin(std::size_t begin) { begin_ = begin; }
  [[nodiscard]] std::size_t begin() const { return begin_; }
  // The message of `size` bytes in a row: put together once.
  const Buffer& Join(std::size_t size);

 private:
  // One of the two has bytes.
  struct Part {
    Buffer received;
    std::string copied;
    [[nodiscard]] std::string_view view() const {
      return received.size() != 0 ? received.view() : std::string_view(copied);
    }
  };

  void CompactLast();

  std::vector<Part> parts_;
  std::size_t size_ = 0;
  std::size_t unused_ = 0;  // bytes of the blocks of received parts that are not theirs
  std::string_view tail_;
  std::size_t begin_ = 0;
  Buffer joined_;
};

}  // namespace iocp
