// A framing as the simulation knows it: options drawn by chance, the plain reference that cuts, and
// one that encodes as the documentation says, without any of the engine's code.
#pragma once

#include <iocp/framing.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "choices.h"
#include "stage/framing_reference.h"

namespace iocp::sim {

class FramingModel {
 public:
  using Cut = testing::FrontCut;

  FramingModel() = default;
  FramingModel(const FramingModel&) = delete;
  FramingModel& operator=(const FramingModel&) = delete;
  virtual ~FramingModel() = default;

  static std::unique_ptr<FramingModel> Draw(Choices& choices);

  // The engine's, made of the same options.
  [[nodiscard]] const FramingPtr& framing() const { return framing_; }
  [[nodiscard]] std::size_t max_size() const { return max_size_; }

  // `bytes` begin where a message does. `last`: no more will follow.
  [[nodiscard]] virtual Cut First(std::string_view bytes, bool last) const = 0;
  // How `message` is sent; none: the framing cannot carry it.
  [[nodiscard]] virtual std::optional<std::string> FrameOf(std::string_view message) const = 0;
  // A message to send, of about `size` bytes, which the framing can carry most of the time.
  [[nodiscard]] virtual std::string DrawMessage(Choices& choices, std::size_t size) const;
  // A frame that a peer sends, with about `size` bytes in it.
  [[nodiscard]] virtual std::string DrawFrame(Choices& choices, std::size_t size) const;

 protected:
  FramingPtr framing_;
  std::size_t max_size_ = 0;
};

using FramingModels = std::vector<std::unique_ptr<FramingModel>>;

// Bytes of which some letters are frequent, so that delimiters and escapes are among them.
std::string DrawBytes(Choices& choices, std::size_t size);

// All that a client sends: parts, each with a framing of its own, which the server is to set when
// it has had the part before.
struct Script {
  struct Part {
    std::size_t end;                        // in `bytes`
    const FramingModel* framing = nullptr;  // null: bytes as they are
  };
  std::string bytes;
  std::vector<Part> parts;  // at least one

  // `first`: the framing that connections begin with, maybe null.
  static Script Draw(Choices& choices, const FramingModels& models, const FramingModel* first,
                     std::size_t size);
  // The part that `place` is in; at the end of all: the last one.
  [[nodiscard]] std::size_t PartAt(std::uint64_t place) const;
};

}  // namespace iocp::sim
