// Cuts what one connection receives into messages, and keeps what is left of one.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "iocp/buffer.h"
#include "iocp/framing.h"
#include "iocp/message.h"
#include "stage/framing/message_parts.h"

namespace iocp {

// Messages are only looked at until Consume says that they are done with: they can be cut again, by
// another framing too. So a hook that pauses reading, or that sets another framing, needs nobody to
// undo anything. Belongs to the session's owner. Functions may throw std::bad_alloc.
class MessageCutter {
 public:
  explicit MessageCutter(FramingPtr framing);

  struct Cuts {
    std::size_t used = 0;  // bytes of what is kept and of `bytes` that the messages take
    // True exactly when there is no message, as the stream cannot be cut any more: see fault().
    bool fault = false;
  };
  // The messages, `most` of them, at the front of what is kept and `bytes`. They are good until the
  // next call of any function. `last`: true exactly when nothing will come behind `bytes`.
  Cuts Cut(const Buffer& bytes, std::size_t most, bool last, std::vector<Message>* messages);
  // Turns encoded messages, as Cut has found them, into what the hooks get; they must be consumed
  // then.
  void Decode(std::vector<Message>& messages);
  // Removes what was used, from the front of what is kept and `bytes`.
  void Consume(Buffer& bytes, std::size_t used);
  // Keeps the beginning of a message, after a Cut of `bytes` that has found none.
  void Keep(Buffer bytes);
  // Gives up the kept bytes, for another framing to cut.
  std::vector<Buffer> GiveBack();

  [[nodiscard]] const Framing& framing() const { return *framing_; }
  // True exactly when the beginning of a message is kept.
  [[nodiscard]] bool inside() const { return kept() != 0; }
  [[nodiscard]] std::size_t kept() const { return text_.size() + parts_.size(); }
  // Bytes of memory that this takes. For tests.
  [[nodiscard]] std::size_t memory() const { return text_.capacity() + parts_.memory(); }
  // Why the last Cut has found no message, or what was set.
  [[nodiscard]] const FrameFault& fault() const { return fault_; }
  void set_fault(const FrameFault& fault) { fault_ = fault; }
  // Lets go of what is kept.
  void Drop();

 private:
  FrameCut CutNext(std::string_view bytes, bool last);
  FrameCut CutText(std::string_view bytes, bool last, bool looked);
  FrameCut CutParts(std::string_view bytes);
  Cuts Checked(Cuts cuts);
  // `frame`: where it begins; null: in `parts_`.
  void Add(const FrameCut& cut, const char* frame, const Buffer* source,
           std::vector<Message>* messages);
  [[nodiscard]] std::string_view text() const { return {text_.data(), text_.size()}; }
  void AddText(std::string_view bytes);
  void DropBorrowed();

  const FramingPtr framing_;
  const std::unique_ptr<Framer> framer_;
  const bool decodes_;
  // The kept bytes: in `text_`, or in `parts_` if the message is large.
  std::vector<char> text_;
  MessageParts parts_;
  std::size_t borrowed_ = 0;  // bytes at the end of text_ that are not consumed
  FrameCut announced_;        // the framer's announcement for the message whose beginning is kept
  bool looked_ = false;       // true exactly when the framer was last asked about what is kept
  FrameCut more_;             // the last answer of the framer in Cut
  FrameFault fault_;
};

}  // namespace iocp
