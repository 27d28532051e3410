#include "stage/framing/message_cutter.h"

#include <algorithm>
#include <string>
#include <utility>

namespace iocp {
namespace {

// A larger message is kept as it came, and not copied into one piece of memory meanwhile.
constexpr std::size_t kLarge = 8 * 1024;
// If the length of a message is not known, so many bytes behind its beginning are looked at first:
// the rest of a buffer may belong to others.
constexpr std::size_t kFirstLook = 1024;
// The memory for a message whose length is not known grows by at most so much ahead of its bytes,
// or by that part of them.
constexpr std::size_t kMostAhead = 32 * 1024;
constexpr std::size_t kAheadPart = 16;
// A connection that waits for its next message keeps no more memory than this for it.
constexpr std::size_t kMostIdle = 1024;

// The bytes that a cut has come to the end of.
std::size_t Used(const FrameCut& cut) {
  const bool ends = cut.kind == FrameCut::Kind::kMessage || cut.kind == FrameCut::Kind::kSkip;
  return ends ? cut.used : 0;
}

}  // namespace

MessageCutter::MessageCutter(FramingPtr framing)
    : framing_(std::move(framing)), framer_(framing_->MakeFramer()), decodes_(framer_->decodes()) {}

// A framer that goes back or stands still would never come to an end, and one that waits for no
// known length could wait for ever.
FrameCut MessageCutter::CutNext(std::string_view bytes, bool last) {
  FrameCut cut = framer_->Cut(bytes, last);
  const bool inside = cut.begin <= cut.used && cut.size <= cut.used - cut.begin;
  switch (cut.kind) {
    case FrameCut::Kind::kMore:
      if (cut.used == 0) {
        if (bytes.size() <= framing_->most_waiting()) return FrameCut::More();
        return FrameCut::TooLong(framing_->most_waiting(), std::nullopt);
      }
      return inside && cut.used > bytes.size() ? cut : FrameCut::Malformed();
    case FrameCut::Kind::kMessage:
    case FrameCut::Kind::kSkip:
      if (cut.used == 0 || cut.used > bytes.size() || !inside) return FrameCut::Malformed();
      return cut;
    case FrameCut::Kind::kFault:
      return cut;
  }
  return cut;
}

MessageCutter::Cuts MessageCutter::Cut(const Buffer& bytes, std::size_t most, bool last,
                                       std::vector<Message>* messages) {
  DropBorrowed();
  const bool looked = std::exchange(looked_, false);
  if (!looked) framer_->Reset();
  messages->clear();
  Cuts cuts;
  std::size_t at = 0;  // in `bytes`
  more_ = {};
  const std::size_t before = kept();
  if (before != 0) {
    const bool large = !parts_.empty();
    more_ = large ? CutParts(bytes.view()) : CutText(bytes.view(), last, looked);
    cuts.used = Used(more_);
    Add(more_, large ? nullptr : text_.data(), nullptr, messages);
    if (cuts.used < before) return Checked(cuts);
    at = cuts.used - before;
  }
  while (at < bytes.size() && messages->size() < most) {
    const char* const frame = bytes.data() + at;
    more_ = CutNext({frame, bytes.size() - at}, last);
    if (Used(more_) == 0) break;
    Add(more_, frame, &bytes, messages);
    at += more_.used;
    // A list ends with its last message, wherever the network has cut what is skipped behind it.
    if (more_.kind == FrameCut::Kind::kMessage || messages->empty()) cuts.used = before + at;
  }
  return Checked(cuts);
}

// A fault behind messages is found again once they are done with.
MessageCutter::Cuts MessageCutter::Checked(Cuts cuts) {
  cuts.fault = more_.kind == FrameCut::Kind::kFault && cuts.used == 0;
  if (cuts.fault) {
    fault_ = more_.fault();
    if (fault_.kind == FrameFault::Kind::kMalformed) fault_.detail = framing_->malformation();
  }
  return cuts;
}

// A message is added to the list; what is skipped is not.
void MessageCutter::Add(const FrameCut& cut, const char* frame, const Buffer* source,
                        std::vector<Message>* messages) {
  if (cut.kind != FrameCut::Kind::kMessage) return;
  Message& message = messages->emplace_back();
  message.size_ = cut.size;
  if (frame == nullptr) {
    message.parts_ = &parts_;
  } else {
    message.data_ = frame + cut.begin;
    message.source_ = source;
  }
}

FrameCut MessageCutter::CutText(std::string_view bytes, bool last, bool looked) {
  FrameCut cut = announced_;
  // With the end of the stream the framer is asked once more.
  if (!looked || (last && bytes.empty())) cut = CutNext(text(), last && bytes.empty());
  while (cut.kind == FrameCut::Kind::kMore && !bytes.empty()) {
    std::size_t count = std::max(kFirstLook, text_.size());
    if (cut.used != 0) {
      count = cut.used - text_.size();
      if (count > bytes.size()) return cut;
    }
    count = std::min(count, bytes.size());
    AddText(bytes.substr(0, count));
    borrowed_ += count;
    bytes.remove_prefix(count);
    cut = CutNext(text(), last && bytes.empty());
  }
  return cut;
}

FrameCut MessageCutter::CutParts(std::string_view bytes) {
  const std::size_t missing = announced_.used - parts_.size();
  if (bytes.size() < missing) return announced_;
  parts_.set_tail(bytes.substr(0, missing));
  parts_.set_begin(announced_.begin);
  const std::size_t end = announced_.begin + announced_.size;
  std::string trailer(announced_.used - end, '\0');
  parts_.CopyTo(end, trailer.size(), trailer.data());
  if (!framer_->EndsWell(trailer)) return FrameCut::Malformed();
  framer_->Reset();  // it was not asked about the rest of this message, and may remember its front
  return FrameCut::Message(announced_.used, announced_.begin, announced_.size);
}

void MessageCutter::Decode(std::vector<Message>& messages) {
  if (!decodes_) return;
  for (Message& message : messages) {
    if (message.parts_ != nullptr) {
      const Buffer& joined = parts_.Join(message.size_);
      message.parts_ = nullptr;
      message.data_ = joined.data();
      message.source_ = &joined;
    }
    // Received bytes belong to their connection, which has consumed them with this.
    message.size_ = framer_->Decode(const_cast<char*>(message.data_), message.size_);
  }
}

void MessageCutter::Consume(Buffer& bytes, std::size_t used) {
  DropBorrowed();
  announced_ = {};
  if (used < kept()) {
    text_.erase(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(used));
    // The next message may be far shorter.
    if (text_.capacity() - text_.size() > kMostAhead) text_.shrink_to_fit();
    return;
  }
  bytes.RemoveFront(used - kept());
  text_.clear();
  if (text_.capacity() > kMostIdle) text_.shrink_to_fit();
  if (!parts_.empty()) parts_.Clear();
}

void MessageCutter::Keep(Buffer bytes) {
  DropBorrowed();
  announced_ = more_;
  if (announced_.used > kLarge) {
    parts_.Append(text());
    text_ = std::vector<char>();
    parts_.Append(std::move(bytes));
  } else {
    AddText(bytes.view());
  }
  looked_ = true;
}

std::vector<Buffer> MessageCutter::GiveBack() {
  DropBorrowed();
  looked_ = false;
  parts_.Append(text());
  text_ = std::vector<char>();
  return parts_.Take();
}

void MessageCutter::Drop() {
  borrowed_ = 0;
  looked_ = false;
  text_ = std::vector<char>();
  parts_.Clear();
}

void MessageCutter::AddText(std::string_view bytes) {
  const std::size_t size = text_.size() + bytes.size();
  if (size > text_.capacity()) {
    const std::size_t ahead = std::max(std::min(size, kMostAhead), size / kAheadPart);
    const std::size_t most = announced_.used != 0 ? announced_.used : framing_->most_waiting();
    text_.reserve(std::max(size, std::min(most, size + ahead)));
  }
  text_.insert(text_.end(), bytes.begin(), bytes.end());
}

void MessageCutter::DropBorrowed() {
  text_.resize(text_.size() - borrowed_);
  borrowed_ = 0;
}

}  // namespace iocp
