#include "iocp/message.h"

#include <cstring>
#include <new>

#include "stage/framing/message_parts.h"
#include "stream/buffer_pool.h"

namespace iocp {

std::string_view Message::view() {
  return parts_ == nullptr ? std::string_view(data_, size_) : parts_->Join(size_).view();
}

void Message::CopyTo(char* to) const {
  if (parts_ != nullptr) {
    parts_->CopyTo(parts_->begin(), size_, to);
  } else if (size_ != 0) {
    std::memcpy(to, data_, size_);
  }
}

Buffer Message::Share() {
  if (size_ == 0) return {};
  if (parts_ != nullptr) {
    const Buffer& joined = parts_->Join(size_);
    return joined.Slice(0, size_);
  }
  if (source_ != nullptr) {
    return source_->Slice(static_cast<std::size_t>(data_ - source_->data()), size_);
  }
  Buffer copy = BufferPool::Copy({data_, size_});
  if (copy.size() == 0) throw std::bad_alloc();
  return copy;
}

}  // namespace iocp
