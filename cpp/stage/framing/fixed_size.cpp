#include "iocp/framing.h"
#include "stage/framing/parameters.h"

namespace iocp {
namespace {

class FixedSizeFramer final : public Framer {
 public:
  explicit FixedSizeFramer(std::size_t size) : size_(size) {}
  FrameCut Cut(std::string_view bytes, bool) override {
    return bytes.size() < size_ ? FrameCut::Announced(size_, 0, size_)
                                : FrameCut::Message(size_, 0, size_);
  }

 private:
  const std::size_t size_;
};

class FixedSizeFraming final : public Framing {
 public:
  explicit FixedSizeFraming(std::size_t size) : size_(size) {}
  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<FixedSizeFramer>(size_);
  }
  void Encode(std::string_view message, Frame*) const override {
    if (message.size() == size_) return;
    throw std::invalid_argument("a message has " + std::to_string(size_) + " bytes, not " +
                                std::to_string(message.size()));
  }
  [[nodiscard]] std::size_t most_waiting() const override { return size_; }

 private:
  const std::size_t size_;
};

}  // namespace

FramingPtr FixedSize(std::size_t size) {
  CheckParameter("size", size, 1, std::size_t{1} << 30U);
  return std::make_shared<FixedSizeFraming>(size);
}

}  // namespace iocp
