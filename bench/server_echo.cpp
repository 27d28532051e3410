// server_echo: an echo on iocp::Server with default options, as a user would write it.
//
//   server_echo [--backend NAME] [--workers N] [--hook echo|sha256|length-prefix|lines]
//               [--host ADDRESS] [--port N] [--tls FILE]
//   server_echo --list
//
// The hooks "length-prefix" and "lines" get messages, which the engine cuts from the stream.
// --tls names a PEM file with a certificate and its key.
// Prints "listening PORT"; ends when its standard input does, on Linux at SIGTERM and SIGINT as
// well. --list prints one line per back-end: its name, a tab, and nothing when it is available or
// else why it is not.
#include <iocp/iocp.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "system.h"

namespace {

class Echo final : public iocp::Handler {
 public:
  explicit Echo(bool hash) : hash_(hash) {}

  void OnReadCompleted(iocp::Connection& connection, iocp::Buffer& data) override {
    if (hash_) HashBlock();
    connection.Send(data);
  }

  [[nodiscard]] unsigned WantedHooks() const override { return iocp::kHookRead; }

 private:
  // The work of hashlib in the Python server's hook.
  static void HashBlock() {
    static const std::vector<unsigned char> block(kHashed);
    bench::Hash(block.data(), block.size());
  }

  static constexpr std::size_t kHashed = 256 * 1024;
  const bool hash_;
};

// Sends back all messages that are complete.
class MessageEcho final : public iocp::Handler {
 public:
  void OnMessages(iocp::Connection& connection, std::span<iocp::Message> messages) override {
    // Each worker keeps the memory of its list.
    static thread_local std::vector<iocp::SharedBytes> replies;
    replies.clear();
    for (iocp::Message& message : messages) {
      const std::string_view bytes = message.view();
      replies.push_back({.data = bytes.data(), .size = bytes.size()});
    }
    connection.SendMessages(replies);
  }

  [[nodiscard]] unsigned WantedHooks() const override { return iocp::kHookMessages; }
};

struct CommandLine {
  iocp::Options options;
  std::unique_ptr<iocp::Handler> handler = std::make_unique<Echo>(false);
};

[[noreturn]] void Usage() {
  std::fputs(
      "usage: server_echo [--backend NAME] [--workers N]\n"
      "                   [--hook echo|sha256|length-prefix|lines] [--host ADDRESS] [--port N]\n"
      "                   [--tls FILE]\n"
      "       server_echo --list\n",
      stderr);
  std::exit(2);
}

int ParseInt(std::string_view text) {
  int value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || stop != text.data() + text.size()) Usage();
  return value;
}

void ParseHook(std::string_view hook, CommandLine& line) {
  if (hook == "echo" || hook == "sha256") {
    line.handler = std::make_unique<Echo>(hook == "sha256");
    return;
  }
  line.handler = std::make_unique<MessageEcho>();
  if (hook == "length-prefix") {
    line.options.framing = iocp::LengthPrefix();
  } else if (hook == "lines") {
    line.options.framing = iocp::Delimiter({"\n"});
  } else {
    Usage();
  }
}

CommandLine ParseOptions(int argc, char** argv) {
  CommandLine line;
  iocp::Options& options = line.options;
  options.port = 0;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) Usage();
    const char* value = argv[i + 1];
    if (name == "--backend") {
      options.backend = value;
    } else if (name == "--workers") {
      options.workers = ParseInt(value);
    } else if (name == "--hook") {
      ParseHook(value, line);
    } else if (name == "--host") {
      options.host = value;
    } else if (name == "--port") {
      options.port = ParseInt(value);
    } else if (name == "--tls") {
      iocp::TlsServerOptions tls;
      tls.certificate_file = value;
      options.tls = iocp::Tls::Server(tls);
    } else {
      Usage();
    }
  }
  return line;
}

void ListBackends() {
  for (const iocp::BackendInfo& backend : iocp::Backends()) {
    std::printf("%s\t%s\n", backend.name.c_str(), backend.available ? "" : backend.reason.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--list") {
    ListBackends();
    return 0;
  }
  CommandLine line;
  try {
    line = ParseOptions(argc, argv);
  } catch (const iocp::TlsError& error) {
    std::fprintf(stderr, "server_echo: %s\n", error.what());
    return 1;
  }

  if (!bench::Prepare()) return 1;
  iocp::Server server(*line.handler);
  const iocp::Status status = server.Start(line.options);
  if (!status.ok()) {
    std::fprintf(stderr, "server_echo: %s\n", status.message.c_str());
    return 1;
  }
  std::printf("listening %d\n", server.address().port);
  std::fflush(stdout);
  bench::WaitForEnd();
  server.Shutdown(std::chrono::seconds(1));
  return 0;
}
