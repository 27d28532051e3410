// The command line of iocp_load, and how the program fails.
#pragma once

#include <netinet/in.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <system_error>

namespace load {

inline constexpr std::uint64_t kSecond = 1'000'000'000;
inline constexpr std::uint64_t kConnectTimeout = 5 * kSecond;
inline constexpr std::uint64_t kStallTimeout = 5 * kSecond;
inline constexpr int kMaxEvents = 1024;

// Prints why, and ends the process.
[[noreturn]] [[gnu::format(printf, 2, 3)]] void Fail(int exit_code, const char* format, ...);

inline constexpr int kRunError = 1;
inline constexpr int kUsageError = 2;

inline std::string ErrorText(int error) { return std::generic_category().message(error); }

inline std::uint64_t Clock(clockid_t clock) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return 0;
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond +
         static_cast<std::uint64_t>(time.tv_nsec);
}

inline std::uint64_t Now() { return Clock(CLOCK_MONOTONIC); }

// How messages are told apart on the wire.
enum class Framing : std::uint8_t {
  kNone,          // they are not
  kLengthPrefix,  // behind their length, kLengthSize bytes, the highest first
  kLines,         // before a "\n", which they do not contain
};

inline constexpr std::size_t kLengthSize = 4;

// As the command line has it.
const char* NameOf(Framing framing);

struct Options {
  sockaddr_in server{};
  bool connect_mode = false;
  bool idle_mode = false;
  std::string authority;  // of TLS; "": there is none
  bool resume = false;
  bool http = false;
  std::size_t connections = 64;
  std::size_t bytes = 64;  // of a message, without what the framing adds
  Framing framing = Framing::kNone;
  std::size_t in_flight = 1;
  std::size_t check_every = 1;
  std::uint64_t duration = 2 * kSecond;
  std::uint64_t warm_up = kSecond / 2;
  int cpu = -1;
  pid_t server_pid = 0;

  // The bytes of a message on the wire.
  [[nodiscard]] std::size_t message_size() const {
    if (framing == Framing::kLengthPrefix) return kLengthSize + bytes;
    return framing == Framing::kLines ? bytes + 1 : bytes;
  }
};

// Ends the process with the usage where it is wrong.
Options ParseOptions(int argc, char** argv);

}  // namespace load
