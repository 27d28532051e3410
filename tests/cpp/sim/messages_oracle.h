// The simulation's knowledge of the messages of one connection. It checks each message by the plain
// reference, the faults, and the time that a message may take.
#pragma once

#include <iocp/iocp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "framing_model.h"
#include "network.h"

namespace iocp::sim {

struct Account;

class MessagesOracle {
 public:
  MessagesOracle(Network& network, Account& account, const FramingModel* framing)
      : network_(network), account_(account), framing_(framing), tried_{framing} {}

  // The framing that the next hook sees; null: bytes as they are.
  [[nodiscard]] const FramingModel* framing() const { return framing_; }
  // Somebody sets another one. `open`: the connection is.
  void Set(const FramingModel* framing, bool open);
  // True exactly when it does not matter how many of the bytes between messages have come by now.
  [[nodiscard]] bool SwitchIsClear() const;
  // True exactly while a hook of messages runs: the place in the stream is known to the byte.
  bool in_hook = false;

  // A hook gets a message: the one that has to come next. It is taken off the stream.
  std::string Take();
  // Takes what is between messages off the stream.
  void SkipRest();
  // A bad frame is reported.
  void CheckFault(const FrameFault& fault, std::uint64_t bytes_received);
  // True exactly when the bytes received, `received` of them, begin with a whole message, or with
  // what can be none.
  [[nodiscard]] bool CutIsDue(std::uint64_t received) const;
  // Bytes that are received, and of no message that is complete.
  [[nodiscard]] std::uint64_t Inside(std::uint64_t received) const;

  // Called whenever time is about to pass, as everything happens at one moment until then.
  struct Moment {
    std::uint64_t received;  // bytes
    bool paused;             // true exactly when reading is blocked, by the user or the backlog
    bool excused;            // true exactly when nobody has to judge the time now
    bool at_hand;            // true exactly when something is there to receive
  };
  void LookAtTime(const Moment& moment, const std::optional<Duration>& timeout);
  // It was closed by message_timeout, as `end` says.
  void CheckTimeOut(const Network::GivenUp& end, const std::optional<Duration>& timeout) const;

 private:
  [[nodiscard]] std::string_view Left(std::uint64_t end) const;
  // The first cut of the stream up to `end` that is no skip. `*place`: where it begins.
  [[nodiscard]] FramingModel::Cut Next(const FramingModel& framing, std::uint64_t end, bool last,
                                       std::uint64_t* place) const;

  Network& network_;
  Account& account_;
  const FramingModel* framing_;
  std::vector<const FramingModel*> tried_;  // those since the last message
  std::uint64_t switches_ = 0;

  // The message that is not complete, as of the last look.
  bool inside_ = false;
  std::uint64_t place_ = 0;  // in the stream
  std::uint64_t switches_then_ = 0;
  TimePoint looked_at_;
  bool paused_ = false;
  bool excused_ = false;
  Duration most_{};   // how long it was inside, and not paused
  Duration least_{};  // the part of it in which the time had to be judged
  std::uint64_t received_ = 0;
  TimePoint quiet_from_;  // when something last came, was at hand, or nobody had to judge
};

}  // namespace iocp::sim
