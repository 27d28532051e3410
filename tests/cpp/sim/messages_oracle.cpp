#include "messages_oracle.h"

#include <algorithm>
#include <utility>

#include "app.h"

namespace iocp::sim {
namespace {

using Cut = FramingModel::Cut;

}  // namespace

std::string_view MessagesOracle::Left(std::uint64_t end) const {
  const std::string_view sent = account_.script->bytes;
  return sent.substr(0, static_cast<std::size_t>(end))
      .substr(static_cast<std::size_t>(account_.delivered));
}

Cut MessagesOracle::Next(const FramingModel& framing, std::uint64_t end, bool last,
                         std::uint64_t* place) const {
  std::string_view left = Left(end);
  *place = account_.delivered;
  while (!left.empty()) {
    Cut cut = framing.First(left, last);
    if (cut.kind != Cut::Kind::kSkip) return cut;
    left.remove_prefix(cut.used);
    *place += cut.used;
  }
  return {};
}

void MessagesOracle::Set(const FramingModel* framing, bool open) {
  framing_ = framing;
  if (!open) return;  // what broke it was found before
  tried_.push_back(framing);
  ++switches_;
}

bool MessagesOracle::SwitchIsClear() const {
  if (in_hook || framing_ == nullptr) return true;
  const std::string_view left = Left(account_.client_sent);
  return left.empty() || framing_->First(left, false).kind != Cut::Kind::kSkip;
}

std::string MessagesOracle::Take() {
  if (framing_ == nullptr) {
    network_.Fail("a message, and the connection has no framing");
    return {};
  }
  std::uint64_t place = 0;
  Cut cut = Next(*framing_, account_.client_sent, account_.client_ended, &place);
  network_.Check(cut.kind == Cut::Kind::kMessage, "a message that nobody has sent");
  account_.delivered = place + cut.used;
  tried_ = {framing_};
  return std::move(cut.message);
}

void MessagesOracle::SkipRest() {
  if (framing_ == nullptr) return;
  std::uint64_t place = 0;
  const Cut cut = Next(*framing_, account_.client_sent, true, &place);
  if (cut.kind == Cut::Kind::kMore) account_.delivered = place;
}

void MessagesOracle::CheckFault(const FrameFault& fault, std::uint64_t bytes_received) {
  using Kind = FrameFault::Kind;
  const bool explained = std::any_of(tried_.begin(), tried_.end(), [&](const FramingModel* model) {
    if (model == nullptr) return false;
    std::uint64_t place = 0;
    const Cut cut = Next(*model, account_.client_sent, account_.client_ended, &place);
    if (fault.kind == Kind::kTruncated) {
      return account_.client_ended && bytes_received >= account_.client_sent &&
             cut.kind == Cut::Kind::kMore && place != account_.client_sent;
    }
    if (cut.kind != Cut::Kind::kFault || cut.fault.kind != fault.kind) return false;
    if (fault.kind != Kind::kTooLong) return true;
    return fault.limit == cut.fault.limit && fault.announced == cut.fault.announced;
  });
  network_.Check(explained, "a bad frame that nobody has sent, or another fault than it has");
}

bool MessagesOracle::CutIsDue(std::uint64_t received) const {
  if (framing_ == nullptr) return received != account_.delivered;
  std::uint64_t place = 0;
  const Cut cut = Next(*framing_, received, false, &place);
  return cut.kind != Cut::Kind::kMore;
}

std::uint64_t MessagesOracle::Inside(std::uint64_t received) const {
  if (framing_ == nullptr) return 0;
  std::uint64_t place = 0;
  static_cast<void>(Next(*framing_, received, false, &place));
  return received - place;
}

void MessagesOracle::LookAtTime(const Moment& moment, const std::optional<Duration>& timeout) {
  const TimePoint now = network_.now();
  const Duration passed = now - std::exchange(looked_at_, now);
  Duration judged = least_;  // not by the one turn at the end of a jump: see App::CheckSilence
  if (inside_ && !paused_) most_ += passed;
  if (inside_ && !paused_ && !excused_) least_ += passed;
  const bool was_inside = std::exchange(inside_, Inside(moment.received) != 0);
  const bool same = place_ == account_.delivered && switches_then_ == switches_;
  place_ = account_.delivered;
  switches_then_ = switches_;
  if (!inside_ || !was_inside || !same) most_ = least_ = judged = {};
  // A worker that had no turn may not know yet that reading goes on.
  if (moment.excused) least_ = judged = {};
  // It has to speak for all bytes until now, and is judged with the next tick.
  const bool speaks = std::exchange(received_, moment.received) != moment.received;
  if (moment.excused || moment.at_hand || speaks) quiet_from_ = now;
  paused_ = moment.paused;
  excused_ = moment.excused;
  if (!inside_ || paused_ || excused_ || !timeout) return;
  // With something at hand when the time is up, the message has it once more.
  network_.Check(judged <= *timeout + kLateness || now <= quiet_from_ + *timeout + kLateness,
                 "inside a message for longer than message_timeout, and not closed");
}

void MessagesOracle::CheckTimeOut(const Network::GivenUp& end,
                                  const std::optional<Duration>& timeout) const {
  const bool same = place_ == account_.delivered && switches_then_ == switches_;
  Duration inside = most_;
  if (!paused_) inside += end.at - looked_at_;
  network_.Check(timeout && inside_ && same && inside >= *timeout,
                 "closed by message_timeout before it was up");
  network_.Check(!end.speaks || inside >= 2 * *timeout, "closed by message_timeout, and it spoke");
}

}  // namespace iocp::sim
