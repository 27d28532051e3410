#include "framing_differential.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "framing_reference.h"
#include "support/framed.h"

namespace iocp::testing {
namespace {

using sim::Choices;

constexpr std::size_t kBlock = std::size_t{64} * 1024;  // of a receive

struct Subject {
  std::string what;
  FramingPtr framing;
  std::size_t max_size;
  std::function<FrontCut(std::string_view)> rule;
  std::vector<std::string> fragments;  // that mean something to it
};

// Small ones, so that they are passed, and such that let large messages through.
std::size_t MaxSize(Choices& choices) {
  return choices.OneOf<std::size_t>({1, 2, 5, 300, 100'000, std::size_t{1} << 40U});
}

Subject AnyLengthPrefix(Choices& choices) {
  LengthPrefixOptions options;
  options.size = choices.OneOf({1, 2, 3, 4, 8});
  options.little_endian = choices.Below(2) == 1;
  options.offset = choices.OneOf<std::size_t>({0, 0, 1, 2, 7, 1024});
  const auto header = static_cast<std::int64_t>(options.offset) + options.size;
  options.adjust = choices.OneOf<std::int64_t>({0, 0, -header, -options.size, 1, 5, -1, 300,
                                                std::int64_t{1} << 40U, -(std::int64_t{1} << 40U)});
  switch (choices.Below(5)) {
    case 0:
    case 1:
      break;
    case 2:
      options.strip = static_cast<std::size_t>(header);
      break;
    default:
      options.strip = choices.OneOf<std::size_t>({0, 1, 3, 12, 2048});
  }
  options.max_size = MaxSize(choices);
  const std::string what = "LengthPrefix size " + std::to_string(options.size) + " offset " +
                           std::to_string(options.offset) + " adjust " +
                           std::to_string(options.adjust) + " strip " +
                           (options.strip ? std::to_string(*options.strip) : "-") + " max " +
                           std::to_string(options.max_size);
  const auto size = static_cast<std::size_t>(options.size);
  return {what,
          LengthPrefix(options),
          options.max_size,
          [options](std::string_view bytes) { return FrontOfLengthPrefix(bytes, options); },
          {std::string(size, '\0'), std::string(size, '\xff'), std::string(size - 1, '\0') + "\3",
           std::string(options.offset, 'o')}};
}

Subject AnyDelimiter(Choices& choices) {
  std::vector<std::string> delimiters;
  for (std::uint64_t count = 1 + choices.Below(4); count > 0; --count) {
    std::string delimiter;
    for (std::uint64_t size = 1 + choices.Below(4); size > 0; --size) {
      delimiter += choices.OneOf({'a', 'b', '\n'});
    }
    delimiters.push_back(delimiter);
  }
  const bool keep = choices.Below(2) == 1;
  const std::size_t max_size = MaxSize(choices);
  std::string what = "Delimiter";
  for (const std::string& delimiter : delimiters) what += " '" + delimiter + "'";
  what += (keep ? " keep max " : " max ") + std::to_string(max_size);
  std::vector<std::string> fragments = delimiters;
  for (const std::string& delimiter : delimiters) fragments.push_back(delimiter.substr(1));
  fragments.emplace_back("a");
  return {what, Delimiter(delimiters, keep, max_size), max_size,
          [=](std::string_view bytes) {
            return FrontOfDelimiter(bytes, delimiters, keep, max_size, true);
          },
          fragments};
}

Subject AnySubject(Choices& choices) {
  switch (choices.Below(7)) {
    case 0:
      return AnyLengthPrefix(choices);
    case 1:
      return AnyDelimiter(choices);
    case 2: {
      const std::size_t size = choices.OneOf<std::size_t>({1, 2, 7, 300, 40'000});
      return {"FixedSize " + std::to_string(size),
              FixedSize(size),
              size,
              [=](std::string_view bytes) { return FrontOfFixedSize(bytes, size); },
              {"x"}};
    }
    default:
      break;
  }
  const std::size_t max_size = MaxSize(choices);
  const std::string max = " max " + std::to_string(max_size);
  switch (choices.Below(4)) {
    case 0:
      return {
          "VarintPrefix" + max,
          VarintPrefix(max_size),
          max_size,
          [=](std::string_view bytes) { return FrontOfVarintPrefix(bytes, max_size); },
          {std::string(9, '\xff'), std::string(10, '\x80'), std::string(1, '\0'), "\3", "\x80"}};
    case 1:
      return {"Netstring" + max,
              Netstring(max_size),
              max_size,
              [=](std::string_view bytes) { return FrontOfNetstring(bytes, max_size); },
              {"0", "1", "2", "9", ":", ",", "3:", "1099511627776"}};
    case 2:
      return {"Cobs" + max,
              Cobs(max_size),
              max_size,
              [=](std::string_view bytes) { return FrontOfCobs(bytes, max_size); },
              {std::string(1, '\0'), "\1", "\2", "\3", "\xff", std::string(254, 'x')}};
    default:
      return {"Slip" + max,
              Slip(max_size),
              max_size,
              [=](std::string_view bytes) { return FrontOfSlip(bytes, max_size); },
              {"\xC0", "\xDB", "\xDC", "\xDD", "\xDB\xDC"}};
  }
}

std::string AnyMessage(Choices& choices, const Subject& subject) {
  std::string message(choices.OneOf<std::size_t>({0, 1, 2, 7, 254, 255, 300, 33'000, 70'000}), 'm');
  if (!message.empty())
    message[choices.Below(message.size())] = static_cast<char>(choices.Below(256));
  if (choices.Below(3) == 0) {
    message += subject.fragments[choices.Below(subject.fragments.size())];
  }
  return message;
}

// Made of messages as they are sent, of fragments that mean something to the framing, and of any
// bytes.
struct Stream {
  std::string bytes;
  // The messages, as long as there was nothing else.
  std::vector<std::string> sent;
  bool only_sent = true;
};

Stream AnyStream(Choices& choices, const Subject& subject) {
  Stream stream;
  const bool foreign = choices.Below(3) != 0;
  for (std::uint64_t pieces = choices.Below(12); pieces > 0; --pieces) {
    switch (foreign ? choices.Below(4) : 0) {
      case 0:
      case 1:
        try {
          const std::string message = AnyMessage(choices, subject);
          stream.bytes += Encoded(*subject.framing, message);
          stream.sent.push_back(message);
          // It is sent, but not taken.
          if (message.size() > subject.max_size) stream.only_sent = false;
        } catch (const std::invalid_argument&) {  // NOLINT(bugprone-empty-catch): it is not sent
        }
        break;
      case 2:
        stream.bytes += subject.fragments[choices.Below(subject.fragments.size())];
        stream.only_sent = false;
        break;
      default:
        for (std::uint64_t size = choices.Below(12); size > 0; --size) {
          stream.bytes += static_cast<char>(choices.Below(256));
        }
        stream.only_sent = false;
    }
  }
  return stream;
}

// A receive: a block that is filled more or less.
Buffer AnyReceived(Choices& choices, std::string_view bytes) {
  if (choices.Below(4) != 1) return BufferPool::Copy(bytes);
  return Received(bytes, std::max(bytes.size(), kBlock));
}

std::string Describe(const std::vector<std::string>& messages, const FrameFault& fault) {
  std::string text = std::to_string(messages.size()) + " messages (sizes";
  for (const std::string& message : messages) text += " " + std::to_string(message.size());
  return text + "), " + fault.Describe();
}

bool Same(const FrameFault& one, const FrameFault& other) {
  return one.kind == other.kind && one.announced == other.announced && one.limit == other.limit;
}

// Cuts `bytes` with a reader that is given another framing of the same kind now and then.
void Read(Choices& choices, const Subject& subject, std::string_view bytes,
          std::vector<std::string>* messages, FrameFault* fault) {
  const std::size_t most = choices.OneOf<std::size_t>({FramedReader::kAll, 1, 2});
  auto reader = std::make_unique<FramedReader>(subject.framing, most);
  const auto collect = [&] {
    messages->insert(messages->end(), reader->messages().begin(), reader->messages().end());
  };
  while (!bytes.empty() && !reader->failed()) {
    // When there are no choices left, all the rest comes at once.
    const bool all = choices.Below(8) == 0;
    const std::size_t size = all ? bytes.size() : std::min(choices.Size(100'000), bytes.size());
    reader->Receive(AnyReceived(choices, bytes.substr(0, size)));
    bytes.remove_prefix(size);
    if (reader->failed() || choices.Below(8) != 1) continue;
    collect();
    std::vector<Buffer> kept = reader->cutter().GiveBack();
    reader = std::make_unique<FramedReader>(subject.framing, most);
    for (Buffer& buffer : kept) reader->Receive(std::move(buffer));
  }
  reader->End();
  collect();
  *fault = reader->fault();
}

}  // namespace

Differential CompareFramings(Choices& choices) {
  const Subject subject = AnySubject(choices);
  const Stream stream = AnyStream(choices, subject);
  const Reference expected = CutAll(stream.bytes, subject.rule);
  std::vector<std::string> messages;
  FrameFault fault;
  Read(choices, subject, stream.bytes, &messages, &fault);
  Differential result;
  result.messages = messages.size();
  if (messages != expected.messages || !Same(fault, expected.fault)) {
    result.failure = subject.what + ": " + Describe(messages, fault) + " instead of " +
                     Describe(expected.messages, expected.fault);
  } else if (stream.only_sent &&
             (messages != stream.sent || fault.kind != FrameFault::Kind::kNone)) {
    result.failure = subject.what + ": " + Describe(messages, fault) + " instead of those sent, " +
                     Describe(stream.sent, {});
  }
  return result;
}

}  // namespace iocp::testing
