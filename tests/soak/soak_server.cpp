// soak_server: an echo on iocp::Server that keeps books on every connection, for
// tests/soak/soak.py.
//
//   soak_server backend NAME workers N first_data_timeout SECONDS idle_timeout SECONDS
//               write_timeout SECONDS close_timeout SECONDS
//
// Prints "listening PORT". Answers each line of its standard input with a line of JSON: where the
// books stand. When the input ends it shuts down and prints the last line, with descriptors and
// heap before the start and after the end. The exit code is 0 when it came that far.
#include <iocp/iocp.h>
#include <malloc.h>

#include <array>
#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Count = std::atomic<std::uint64_t>;

// Bytes that were allocated and not freed.
std::size_t Heap() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// The books of one connection: what its hooks have seen.
struct Account {
  std::atomic_flag in_hook;
  std::uint64_t received = 0;
  std::uint64_t queued = 0;   // accepted by Send
  std::uint64_t written = 0;  // reported by OnWriteCompleted
  bool broken = false;        // OnConnectionError was called
};

// True while a hook of the account's connection runs on this thread, and on no other.
class InHook {
 public:
  explicit InHook(Account& account) : flag_(account.in_hook), alone_(!flag_.test_and_set()) {}
  InHook(const InHook&) = delete;
  InHook& operator=(const InHook&) = delete;
  ~InHook() {
    if (alone_) flag_.clear();
  }
  explicit operator bool() const { return alone_; }

 private:
  std::atomic_flag& flag_;
  const bool alone_;
};

class Bookkeeper final : public iocp::Handler {
 public:
  // One line: `more` are further members of the JSON object, each with a comma before it.
  void Print(const iocp::Stats& stats, const std::string& more = "") {
    std::uint64_t closed = 0;
    std::string line = "{\"closed_by_reason\": [";
    for (std::size_t i = 0; i < iocp::kCloseReasons; ++i) {
      closed += stats.closed[i];
      line += (i == 0 ? "" : ", ") + std::to_string(stats.closed[i]);
    }
    line += "]";
    const std::pair<const char*, std::uint64_t> members[] = {
        {"accepted", stats.accepted},
        {"refused", stats.refused},
        {"accept_errors", stats.accept_errors},
        {"established", stats.established},
        {"closed", closed},
        {"connections", stats.connections},
        {"bytes_received", stats.bytes_received},
        {"bytes_sent", stats.bytes_sent},
        {"buffers_in_use", stats.buffers_in_use},
        {"free_buffers", stats.free_buffers},
        {"hook_errors", stats.hook_errors},
        {"hooks_established", established_},
        {"hooks_closing", closing_},
        {"hooks_received", received_},
        {"hooks_queued", queued_},
        {"hooks_written", written_},
        {"closed_received", closed_received_},
        {"closed_sent", closed_sent_},
        {"warnings", warnings_},
        {"heap", Heap()},
    };
    for (const auto& [name, value] : members) {
      line += ", \"" + std::string(name) + "\": " + std::to_string(value);
    }
    line += ", \"wrong\": [";
    {
      const std::lock_guard lock(mutex_);
      for (const std::string& what : wrong_) {
        line += (&what == &wrong_.front() ? "\"" : ", \"") + what + "\"";
      }
    }
    line += "]" + more + "}";
    std::puts(line.c_str());
    std::fflush(stdout);
  }

  void OnConnectionEstablished(iocp::Connection& connection) override {
    established_ += 1;
    if (connection.user_data != nullptr) Wrong(connection, "established twice");
    connection.user_data = new Account;
  }

  void OnReadCompleted(iocp::Connection& connection, iocp::Buffer& data) override {
    Account& account = AccountOf(connection);
    const InHook hook(account);
    if (!hook) Wrong(connection, "a read hook overlaps another");
    const std::size_t size = data.size();
    if (size == 0) Wrong(connection, "a read without data");
    account.received += size;
    received_ += size;
    switch (connection.Send(data)) {
      case iocp::SendResult::kAccepted:
        account.queued += size;
        queued_ += size;
        break;
      case iocp::SendResult::kClosed:
        if (connection.is_open()) Wrong(connection, "refuses a send as closed while it is open");
        break;
      case iocp::SendResult::kBacklogFull:
        Wrong(connection, "read from until its backlog is full");
        break;
    }
  }

  void OnWriteCompleted(iocp::Connection& connection, std::size_t size) override {
    Account& account = AccountOf(connection);
    const InHook hook(account);
    if (!hook) Wrong(connection, "a write hook overlaps another");
    account.written += size;
    written_ += size;
    if (account.written > account.queued) Wrong(connection, "more written than sent");
  }

  void OnConnectionError(iocp::Connection& connection, iocp::Error) override {
    Account& account = AccountOf(connection);
    const InHook hook(account);
    if (!hook) Wrong(connection, "an error hook overlaps another");
    if (account.broken) Wrong(connection, "two errors were reported");
    account.broken = true;
  }

  void OnConnectionClosing(iocp::Connection& connection, iocp::CloseReason reason) override {
    Account& account = AccountOf(connection);
    const std::uint64_t received = connection.bytes_received();
    const std::uint64_t sent = connection.bytes_sent();
    if (account.received > received) Wrong(connection, "more delivered than received");
    if (account.written > sent || sent > account.queued) Wrong(connection, "sends do not add up");
    // The peer's end comes behind all its data, and every byte before it was answered.
    if (reason == iocp::CloseReason::kPeerClosed &&
        (account.received != received || account.queued != received)) {
      Wrong(connection, "data is missing before the end of the stream");
    }
    if (account.broken != (reason == iocp::CloseReason::kError)) {
      Wrong(connection, "the error hook and the reason for closing differ");
    }
    closed_received_ += received;
    closed_sent_ += sent;
    closing_ += 1;
    const InHook hook(account);
    if (!hook) Wrong(connection, "the closing hook overlaps another");
  }

  void OnConnectionReleased(iocp::Connection& connection) override {
    delete &AccountOf(connection);
    connection.user_data = nullptr;
  }

  void OnWarning(const std::string& text) override {
    warnings_ += 1;
    std::fprintf(stderr, "%s\n", text.c_str());
  }

 private:
  Account& AccountOf(const iocp::Connection& connection) {
    if (connection.user_data == nullptr) {
      std::fprintf(stderr, "a hook of a connection that is not established, or was released\n");
      std::abort();
    }
    return *static_cast<Account*>(connection.user_data);
  }

  void Wrong(const iocp::Connection& connection, const char* what) {
    const std::lock_guard lock(mutex_);
    constexpr std::size_t kEnough = 10;
    if (wrong_.size() == kEnough) return;
    wrong_.push_back("connection " + std::to_string(connection.id()) + ": " + what);
  }

  Count established_ = 0;
  Count closing_ = 0;
  Count received_ = 0;
  Count queued_ = 0;
  Count written_ = 0;
  Count closed_received_ = 0;
  Count closed_sent_ = 0;
  Count warnings_ = 0;
  std::mutex mutex_;
  std::vector<std::string> wrong_;  // guarded by mutex_
};

[[noreturn]] void Refuse(const std::string& what) {
  std::fprintf(stderr, "soak_server: %s\n", what.c_str());
  std::exit(2);
}

iocp::Options ParseOptions(int argc, char** argv) {
  iocp::Options options;
  options.port = 0;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    if (i + 1 == argc) Refuse("no value for " + std::string(name));
    const std::string_view text = argv[i + 1];
    if (name == "backend") {
      options.backend = text;
      continue;
    }
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || stop != text.data() + text.size()) {
      Refuse(std::string(name) + " is not a number");
    }
    const auto time =
        std::chrono::duration_cast<iocp::Duration>(std::chrono::duration<double>(value));
    if (name == "workers") {
      options.workers = static_cast<int>(value);
    } else if (name == "first_data_timeout") {
      options.first_data_timeout = time;
    } else if (name == "idle_timeout") {
      options.idle_timeout = time;
    } else if (name == "write_timeout") {
      options.write_timeout = time;
    } else if (name == "close_timeout") {
      options.close_timeout = time;
    } else {
      Refuse("unknown option " + std::string(name));
    }
  }
  return options;
}

std::size_t Descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

int main(int argc, char** argv) {
  const iocp::Options options = ParseOptions(argc, argv);
  const std::size_t before = Descriptors();
  const std::size_t heap_before = Heap();
  Bookkeeper books;
  iocp::Server server(books);
  const iocp::Status status = server.Start(options);
  if (!status.ok()) Refuse(status.message);
  std::printf("listening %d\n", server.address().port);
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) books.Print(server.stats());
  server.Shutdown();
  books.Print(server.stats(), ", \"heap_before\": " + std::to_string(heap_before) +
                                  ", \"descriptors_before\": " + std::to_string(before) +
                                  ", \"descriptors_after\": " + std::to_string(Descriptors()));
  return 0;
}
