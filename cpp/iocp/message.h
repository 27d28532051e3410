// One message that a connection has received.
#pragma once

#include <cstddef>
#include <string_view>

#include "iocp/buffer.h"

namespace iocp {

class MessageCutter;
class MessageParts;

// Handed to OnMessage and OnMessages, and good while the hook runs.
class Message {
 public:
  [[nodiscard]] std::size_t size() const { return size_; }
  // The bytes in a row, good while the hook runs. A large message that came in several receives is
  // put together by the first call, which throws std::bad_alloc when there is no memory.
  [[nodiscard]] std::string_view view();
  // Copies the bytes, wherever they are, to `to`.
  void CopyTo(char* to) const;
  // The bytes, to keep or to send: not copied when they lie in one receive buffer, which then stays
  // out of the pool until they are gone. Throws std::bad_alloc.
  [[nodiscard]] Buffer Share();

 private:
  friend class MessageCutter;

  const char* data_ = nullptr;  // null: in `parts_`
  std::size_t size_ = 0;
  const Buffer* source_ = nullptr;  // where `data_` points to; null: elsewhere
  MessageParts* parts_ = nullptr;
};

}  // namespace iocp
