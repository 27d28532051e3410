// The cost of an echoed message for the server, in instructions: a figure that does not depend on
// the machine's mood. It runs under callgrind, as ctest starts it, and fails when somebody doubles
// it.
#include <gtest/gtest.h>
#include <valgrind/callgrind.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "support/client.h"

namespace iocp::testing {
namespace {

constexpr std::string_view kBegin = "begin";
constexpr std::string_view kEnd = "end";

// Echoes. callgrind counts each thread on its own and listens to the thread itself, so the worker's
// count is begun and ended by messages.
class MeasuredEcho final : public Handler {
 public:
  void OnReadCompleted(Connection& connection, Buffer& data) override {
    if (data.view() == kBegin) CALLGRIND_ZERO_STATS;
    if (data.view() == kEnd) CALLGRIND_DUMP_STATS;
    connection.Send(data.data(), data.size());
  }
  [[nodiscard]] unsigned WantedHooks() const override { return kHookRead; }
};

// The content of a worker's dump: "FILE.2-03" is the process's second, of its third thread. Each is
// read once.
std::uint64_t InstructionsIn(const std::filesystem::path& out_file, int dump) {
  const std::string prefix = out_file.filename().string() + "." + std::to_string(dump) + "-";
  std::filesystem::path path;
  for (const auto& entry : std::filesystem::directory_iterator(out_file.parent_path())) {
    if (entry.path().filename().string().rfind(prefix, 0) == 0) path = entry.path();
  }
  std::ifstream file(path);
  const std::string key = "totals: ";
  std::uint64_t instructions = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) == 0) instructions = std::stoull(line.substr(key.size()));
  }
  std::filesystem::remove(path);
  return instructions;
}

// On epoll: valgrind lets no other thread run while one waits in io_uring_enter. All above the port
// is the same code.
class CostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(RUNNING_ON_VALGRIND) << "run it through ctest, which starts it under callgrind";
    const char* out_file = std::getenv("IOCP_CALLGRIND_OUT");
    ASSERT_NE(out_file, nullptr);
    out_file_ = out_file;
    Options options;
    options.port = 0;
    options.backend = "epoll";
    const Status status = server_.Start(options);
    ASSERT_TRUE(status.ok()) << status.message;
  }

  // Instructions of the worker for each of `messages` messages that `exchange` sends and gets back.
  template <typename Exchange>
  std::uint64_t PerMessage(std::uint64_t messages, Exchange exchange) {
    const Client marker(server_.address());
    const auto mark = [&](std::string_view text) {
      ASSERT_TRUE(marker.Send(text));
      ASSERT_EQ(marker.Receive(text.size()), text);
    };
    exchange();  // connections, pools and caches are as they stay
    mark(kBegin);
    exchange();
    mark(kEnd);
    const std::uint64_t cost = InstructionsIn(out_file_, ++dumps_) / messages;
    std::printf("%llu instructions for a message\n", static_cast<unsigned long long>(cost));
    return cost;
  }

  MeasuredEcho handler_;
  Server server_{handler_};
  std::filesystem::path out_file_;
  static inline int dumps_ = 0;  // of this process
};

// A turn for each message: what the smallest batch costs.
TEST_F(CostTest, OneMessageAtATime) {
  constexpr int kMessages = 200;
  const Client client(server_.address());
  const std::string message(64, 'x');
  const std::uint64_t cost = PerMessage(kMessages, [&] {
    for (int i = 0; i < kMessages; ++i) {
      ASSERT_TRUE(client.Send(message));
      ASSERT_EQ(client.Receive(message.size()), message);
    }
  });
  EXPECT_GT(cost, 100U) << "nothing was measured";
  EXPECT_LT(cost, 6500U);
}

// Many connections at once: what a message adds to a batch.
TEST_F(CostTest, InBatches) {
  constexpr int kConnections = 64;
  constexpr int kRounds = 10;
  std::vector<Client> clients;
  for (int i = 0; i < kConnections; ++i) clients.emplace_back(server_.address());
  const std::string message(64, 'x');
  const std::uint64_t cost = PerMessage(std::uint64_t{kConnections} * kRounds, [&] {
    for (int round = 0; round < kRounds; ++round) {
      for (const Client& client : clients) ASSERT_TRUE(client.Send(message));
      for (const Client& client : clients) ASSERT_EQ(client.Receive(message.size()), message);
    }
  });
  EXPECT_GT(cost, 100U) << "nothing was measured";
  EXPECT_LT(cost, 3400U);
}

}  // namespace
}  // namespace iocp::testing
