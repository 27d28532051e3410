#include "load_options.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <sched.h>

#include <array>
#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace load {
namespace {

constexpr const char* kUsage =
    "usage: iocp_load --port N [options]\n"
    "\n"
    "Measures an echo server on the loopback and prints one line of JSON.\n"
    "\n"
    "  --host ADDRESS      127.0.0.1; an address in 127.0.0.0/8\n"
    "  --port N            the server's port\n"
    "  --connections N     at once (64)\n"
    "  --bytes N           of a message (64)\n"
    "  --framing NAME      length-prefix: 4 bytes before each message; lines: \"\\n\" behind it;\n"
    "                      --bytes does not count them (none)\n"
    "  --in-flight N       messages per connection (1)\n"
    "  --check-every N     look at the bytes of one receive in N, count those of the others (1)\n"
    "  --connect           each connection lives for one message\n"
    "  --idle              each connection gets one message back, and stays; prints the memory "
    "of one\n"
    "  --tls FILE          TLS 1.3; the server's certificate comes from the one in FILE\n"
    "  --resume            with --connect: each connection goes on with an earlier session\n"
    "  --http              a message is the path of a GET, and comes back as the body\n"
    "  --seconds S         measured time (2)\n"
    "  --warm-up S         before it (0.5)\n"
    "  --cpu N             run on this CPU only\n"
    "  --server-pid PID    also report the server's CPU time and memory\n";

template <typename Number>
Number ParseNumber(const char* option, const char* text, Number min, Number max) {
  Number value{};
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  // Written so that a NaN is refused as well.
  if (error != std::errc{} || stop != end || !(value >= min && value <= max)) {
    Fail(kUsageError, "--%s %s: a number from %s to %s is needed", option, text,
         std::to_string(min).c_str(), std::to_string(max).c_str());
  }
  return value;
}

std::uint64_t ParseSeconds(const char* option, const char* text, double min) {
  return static_cast<std::uint64_t>(ParseNumber(option, text, min, 600.0) *
                                    static_cast<double>(kSecond));
}

void ParseHost(const char* text, sockaddr_in& address) {
  if (inet_pton(AF_INET, text, &address.sin_addr) != 1) {
    Fail(kUsageError, "--host %s: a numeric IPv4 address is needed", text);
  }
  if (ntohl(address.sin_addr.s_addr) >> 24U != 127) {
    Fail(kUsageError, "--host %s: refused, only loopback addresses (127.0.0.0/8) are measured",
         text);
  }
}

constexpr std::array<Framing, 3> kFramings = {Framing::kNone, Framing::kLengthPrefix,
                                              Framing::kLines};

Framing ParseFraming(const char* text) {
  for (const Framing framing : kFramings) {
    if (std::strcmp(text, NameOf(framing)) == 0) return framing;
  }
  Fail(kUsageError, "--framing %s: none, length-prefix or lines is needed", text);
}

// The option that getopt_long has found, with its value in `optarg`.
void SetOption(int which, const char* name, Options& options) {
  switch (which) {
    case 'h':
      ParseHost(optarg, options.server);
      break;
    case 'p':
      options.server.sin_port = htons(ParseNumber<std::uint16_t>(name, optarg, 1, 65535));
      break;
    case 'c':
      options.connections = ParseNumber<std::size_t>(name, optarg, 1, 100'000);
      break;
    case 'b':
      options.bytes = ParseNumber<std::size_t>(name, optarg, 1, 16'777'216);
      break;
    case 'm':
      options.framing = ParseFraming(optarg);
      break;
    case 'f':
      options.in_flight = ParseNumber<std::size_t>(name, optarg, 1, 4096);
      break;
    case 'k':
      options.check_every = ParseNumber<std::size_t>(name, optarg, 1, 1024);
      break;
    case 'C':
      options.connect_mode = true;
      break;
    case 'I':
      options.idle_mode = true;
      break;
    case 't':
      options.authority = optarg;
      break;
    case 'r':
      options.resume = true;
      break;
    case 'H':
      options.http = true;
      break;
    case 's':
      options.duration = ParseSeconds(name, optarg, 0.01);
      break;
    case 'w':
      options.warm_up = ParseSeconds(name, optarg, 0.0);
      break;
    case 'u':
      options.cpu = ParseNumber(name, optarg, 0, CPU_SETSIZE - 1);
      break;
    case 'P':
      options.server_pid = ParseNumber<pid_t>(name, optarg, 1, 1 << 30);
      break;
    default:
      std::fputs(kUsage, stderr);
      std::exit(kUsageError);
  }
}

}  // namespace

const char* NameOf(Framing framing) {
  if (framing == Framing::kLengthPrefix) return "length-prefix";
  return framing == Framing::kLines ? "lines" : "none";
}

void Fail(int exit_code, const char* format, ...) {
  std::fputs("iocp_load: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::exit(exit_code);
}

Options ParseOptions(int argc, char** argv) {
  static constexpr std::array<option, 18> kLongOptions = {{
      {"host", required_argument, nullptr, 'h'},
      {"port", required_argument, nullptr, 'p'},
      {"connections", required_argument, nullptr, 'c'},
      {"bytes", required_argument, nullptr, 'b'},
      {"framing", required_argument, nullptr, 'm'},
      {"in-flight", required_argument, nullptr, 'f'},
      {"check-every", required_argument, nullptr, 'k'},
      {"connect", no_argument, nullptr, 'C'},
      {"idle", no_argument, nullptr, 'I'},
      {"tls", required_argument, nullptr, 't'},
      {"resume", no_argument, nullptr, 'r'},
      {"http", no_argument, nullptr, 'H'},
      {"seconds", required_argument, nullptr, 's'},
      {"warm-up", required_argument, nullptr, 'w'},
      {"cpu", required_argument, nullptr, 'u'},
      {"server-pid", required_argument, nullptr, 'P'},
      {"help", no_argument, nullptr, '?'},
      {nullptr, 0, nullptr, 0},
  }};
  Options options;
  options.server.sin_family = AF_INET;
  options.server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int which = 0;
  int index = 0;
  while ((which = getopt_long(argc, argv, "", kLongOptions.data(), &index)) != -1) {
    const char* name = which == '?' ? "" : kLongOptions[static_cast<std::size_t>(index)].name;
    SetOption(which, name, options);
  }
  if (optind != argc) Fail(kUsageError, "unexpected argument: %s", argv[optind]);
  if (options.server.sin_port == 0) Fail(kUsageError, "--port is needed");
  if (options.connect_mode && options.in_flight != 1) {
    Fail(kUsageError, "--connect has one message per connection, so no --in-flight");
  }
  if (options.resume && (!options.connect_mode || options.authority.empty())) {
    Fail(kUsageError, "--resume needs --connect and --tls");
  }
  if (options.http &&
      (options.in_flight != 1 || options.bytes > 1024 || options.framing != Framing::kNone)) {
    Fail(kUsageError, "--http takes one message at a time, of at most 1024 bytes, and no framing");
  }
  if (options.idle_mode && (options.connect_mode || options.server_pid == 0)) {
    Fail(kUsageError, "--idle needs --server-pid, and no --connect");
  }
  return options;
}

}  // namespace load
