#include <algorithm>
#include <array>

#include "iocp/framing.h"
#include "stage/framing/parameters.h"

namespace iocp {
namespace {

// A place where a delimiter begins, or could begin.
struct Match {
  static constexpr std::size_t kNowhere = std::string_view::npos;

  std::size_t at = kNowhere;
  std::size_t size = 0;   // of the delimiter; 0: it is not complete
  bool may_grow = false;  // true exactly when more bytes could complete one, or a longer one
};

class DelimiterFraming final : public Framing {
 public:
  DelimiterFraming(std::vector<std::string> delimiters, bool keep, std::size_t max_size);

  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override;
  void Encode(std::string_view message, Frame* frame) const override;
  [[nodiscard]] std::size_t most_waiting() const override { return max_size_ + longest_; }

  // The first match that begins at `from` or later. One that is not complete hides those behind
  // it, unless no more bytes will follow (`last`).
  [[nodiscard]] Match Find(std::string_view bytes, std::size_t from, bool last) const;
  [[nodiscard]] std::size_t max_size() const { return max_size_; }
  [[nodiscard]] bool keep() const { return keep_; }

 private:
  // The next place, at `from` or later, where one could begin.
  [[nodiscard]] std::size_t NextBegin(std::string_view bytes, std::size_t from) const;
  [[nodiscard]] Match MatchAt(std::string_view bytes, std::size_t at) const;
  [[nodiscard]] bool Joins(std::string_view message, std::string_view tail) const;

  const std::vector<std::string> delimiters_;
  const bool keep_;
  const std::size_t max_size_;
  std::size_t longest_ = 0;
  std::array<bool, 256> begins_{};  // true exactly for the first bytes of delimiters
};

class DelimiterFramer final : public Framer {
 public:
  explicit DelimiterFramer(const DelimiterFraming& framing) : framing_(framing) {}

  FrameCut Cut(std::string_view bytes, bool last) override {
    const Match match = framing_.Find(bytes, looked_at_, last);
    if (match.size == 0 || (match.may_grow && !last)) {
      // A delimiter could still begin here.
      looked_at_ = std::min(match.at, bytes.size());
      if (looked_at_ <= framing_.max_size()) return FrameCut::More();
      return FrameCut::TooLong(framing_.max_size(), std::nullopt);
    }
    looked_at_ = 0;
    if (match.at > framing_.max_size()) {
      return FrameCut::TooLong(framing_.max_size(), std::nullopt);
    }
    const std::size_t used = match.at + match.size;
    return FrameCut::Message(used, 0, framing_.keep() ? used : match.at);
  }
  void Reset() override { looked_at_ = 0; }

 private:
  const DelimiterFraming& framing_;
  std::size_t looked_at_ = 0;  // no delimiter begins before
};

DelimiterFraming::DelimiterFraming(std::vector<std::string> delimiters, bool keep,
                                   std::size_t max_size)
    : delimiters_(std::move(delimiters)), keep_(keep), max_size_(max_size) {
  for (const std::string& delimiter : delimiters_) {
    longest_ = std::max(longest_, delimiter.size());
    begins_[static_cast<unsigned char>(delimiter.front())] = true;
  }
}

std::unique_ptr<Framer> DelimiterFraming::MakeFramer() const {
  return std::make_unique<DelimiterFramer>(*this);
}

std::size_t DelimiterFraming::NextBegin(std::string_view bytes, std::size_t from) const {
  if (delimiters_.size() == 1) return bytes.find(delimiters_[0].front(), from);
  for (std::size_t at = from; at < bytes.size(); ++at) {
    if (begins_[static_cast<unsigned char>(bytes[at])]) return at;
  }
  return Match::kNowhere;
}

Match DelimiterFraming::MatchAt(std::string_view bytes, std::size_t at) const {
  const std::string_view rest = bytes.substr(at);
  Match match{at};
  std::size_t unfinished = 0;
  for (const std::string& delimiter : delimiters_) {
    if (rest.starts_with(delimiter)) {
      match.size = std::max(match.size, delimiter.size());
    } else if (std::string_view(delimiter).starts_with(rest)) {
      unfinished = std::max(unfinished, delimiter.size());
    }
  }
  match.may_grow = unfinished > match.size;
  return match;
}

Match DelimiterFraming::Find(std::string_view bytes, std::size_t from, bool last) const {
  if (longest_ == 1 && delimiters_.size() == 1) {
    const std::size_t at = bytes.find(delimiters_[0].front(), from);
    return {at, at == Match::kNowhere ? 0U : 1U};
  }
  for (std::size_t at = NextBegin(bytes, from); at != Match::kNowhere;
       at = NextBegin(bytes, at + 1)) {
    const Match match = MatchAt(bytes, at);
    if (match.size != 0 || (match.may_grow && !last)) return match;
  }
  return {};
}

// How the peer cuts it must not depend on what is sent next.
void DelimiterFraming::Encode(std::string_view message, Frame* frame) const {
  const std::string& first = delimiters_[0];
  if (keep_) {
    const Match end = Find(message, 0, false);
    const bool whole = end.size != 0 && end.at + end.size == message.size();
    if (!whole || (end.may_grow && message.substr(end.at) != first)) {
      throw std::invalid_argument(
          "with keep=True a message must end with its delimiter, and contain no other one; the "
          "delimiter must not be the beginning of a longer one");
    }
  } else if (Find(message, 0, true).size != 0) {
    throw std::invalid_argument("a message must not contain a delimiter");
  } else {
    frame->SetTail(first);
  }
  if (longest_ > 1 && Joins(message, frame->tail())) {
    throw std::invalid_argument(
        "the beginning or the end of this message makes another delimiter with the one that is "
        "sent before or behind it");
  }
}

// True when a delimiter of several bytes lies, or could come to lie, on a border of the message.
bool DelimiterFraming::Joins(std::string_view message, std::string_view tail) const {
  const std::string& first = delimiters_[0];
  if (!tail.empty()) {
    const std::size_t near = std::min(message.size(), longest_ - 1);
    std::string border(message.substr(message.size() - near));
    border += tail;
    if (Find(border, 0, false).at != near) return true;
  }
  // A longer delimiter may begin with the one before this message, and end in it.
  std::string joined = first;
  joined += message.substr(0, longest_);
  joined += tail;
  const Match before = MatchAt(joined, 0);
  return before.size != first.size() || before.may_grow;
}

}  // namespace

FramingPtr Delimiter(std::vector<std::string> delimiters, bool keep, std::size_t max_size) {
  CheckMaxSize(max_size);
  CheckParameter("the number of delimiters", delimiters.size(), 1, 16);
  for (const std::string& delimiter : delimiters) {
    CheckParameter("the length of a delimiter", delimiter.size(), 1, 64);
  }
  return std::make_shared<DelimiterFraming>(std::move(delimiters), keep, max_size);
}

}  // namespace iocp
