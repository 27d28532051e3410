#include "stage/framing/message_parts.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "stream/buffer_pool.h"

namespace iocp {
namespace {

// Fewer bytes than these are copied behind each other, so that there are few parts.
constexpr std::size_t kSmall = 16 * 1024;
constexpr std::size_t kCopiedPart = 16 * 1024;
// The memory of receive buffers that holds nothing of the message: of the last one, for a moment,
// as most messages are complete with the next; and of all before it.
constexpr std::size_t kMostUnusedInLast = 48 * 1024;
constexpr std::size_t kMostUnused = 8 * 1024;

}  // namespace

void MessageParts::Append(Buffer bytes) {
  CompactLast();
  const std::size_t unused = BufferPool::Unused(bytes);
  if (bytes.size() < kSmall || unused > kMostUnusedInLast) {
    Append(bytes.view());
    return;
  }
  // Nothing follows the copied bytes in their part any more.
  if (!parts_.empty()) parts_.back().copied.shrink_to_fit();
  parts_.emplace_back();
  size_ += bytes.size();
  unused_ += unused;
  parts_.back().received = std::move(bytes);
}

// It will not be the last one any more.
void MessageParts::CompactLast() {
  if (unused_ <= kMostUnused) return;
  Buffer& last = parts_.back().received;
  const std::size_t unused = BufferPool::Unused(last);
  if (unused == 0) return;
  Buffer copy = BufferPool::Copy(last.view());
  if (copy.size() == 0) throw std::bad_alloc();
  last = std::move(copy);
  unused_ -= unused;
}

void MessageParts::Append(std::string_view bytes) {
  size_ += bytes.size();
  while (!bytes.empty()) {
    if (parts_.empty() || parts_.back().received.size() != 0 ||
        parts_.back().copied.size() >= kCopiedPart) {
      parts_.emplace_back();
      parts_.back().copied.reserve(kCopiedPart);
    }
    std::string& copied = parts_.back().copied;
    const std::size_t count = std::min(bytes.size(), kCopiedPart - copied.size());
    copied.append(bytes.substr(0, count));
    bytes.remove_prefix(count);
  }
}

std::size_t MessageParts::memory() const {
  std::size_t bytes = parts_.capacity() * sizeof(Part);
  for (const Part& part : parts_) {
    bytes += part.received.size() + BufferPool::Unused(part.received) + part.copied.capacity();
  }
  return bytes;
}

void MessageParts::CopyTo(std::size_t offset, std::size_t size, char* to) const {
  const auto copy = [&](std::string_view part) {
    if (offset >= part.size()) {
      offset -= part.size();
      return;
    }
    const std::string_view piece = part.substr(offset, size);
    if (!piece.empty()) std::memcpy(to, piece.data(), piece.size());
    to += piece.size();
    size -= piece.size();
    offset = 0;
  };
  for (const Part& part : parts_) copy(part.view());
  copy(tail_);
}

std::vector<Buffer> MessageParts::Take() {
  std::vector<Buffer> buffers;
  buffers.reserve(parts_.size());
  for (Part& part : parts_) {
    if (part.received.size() != 0) {
      buffers.push_back(std::move(part.received));
    } else {
      buffers.push_back(BufferPool::Copy(part.copied));
      if (buffers.back().size() == 0) throw std::bad_alloc();
    }
  }
  Clear();
  return buffers;
}

void MessageParts::Clear() {
  parts_.clear();
  parts_.shrink_to_fit();
  size_ = 0;
  unused_ = 0;
  tail_ = {};
  joined_ = Buffer();
}

const Buffer& MessageParts::Join(std::size_t size) {
  if (joined_.size() == 0 && size != 0) {
    char* memory = nullptr;
    joined_ = BufferPool::Allocate(size, &memory);
    if (joined_.size() == 0) throw std::bad_alloc();
    CopyTo(begin_, size, memory);
  }
  return joined_;
}

}  // namespace iocp
