#include "engine/options.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace iocp {
namespace {

TEST(Options, DefaultsAreGood) { EXPECT_TRUE(ValidateOptions(Options{}).ok()); }

struct Bad {
  const char* name;  // must stand in the message
  std::function<void(Options&)> spoil;
};

// A bad argument is refused, by name, before anything is touched.
TEST(Options, EachBadOneIsRefusedByName) {
  using std::chrono::seconds;
  const Bad kBad[] = {
      {"port", [](Options& o) { o.port = 70000; }},
      {"port", [](Options& o) { o.port = -1; }},
      {"workers", [](Options& o) { o.workers = 0; }},
      {"workers", [](Options& o) { o.workers = 1'000'000; }},
      {"max_connections", [](Options& o) { o.max_connections = 0; }},
      {"listen_backlog", [](Options& o) { o.listen_backlog = -5; }},
      {"initial_accepts", [](Options& o) { o.initial_accepts = 0; }},
      {"max_accepts", [](Options& o) { o.max_accepts = 5; }},
      {"initial_reads", [](Options& o) { o.initial_reads = -1; }},
      {"buffer_size", [](Options& o) { o.buffer_size = 0; }},
      {"buffer_size", [](Options& o) { o.buffer_size = std::numeric_limits<std::size_t>::max(); }},
      {"max_free_buffers", [](Options& o) { o.max_free_buffers = -1; }},
      {"max_free_contexts", [](Options& o) { o.max_free_contexts = -1; }},
      {"send_backlog_limit", [](Options& o) { o.send_backlog_limit = 0; }},
      {"max_pending_sends", [](Options& o) { o.max_pending_sends = 0; }},
      {"write_low_water", [](Options& o) { o.write_low_water = o.write_high_water + 1; }},
      {"first_data_timeout", [](Options& o) { o.first_data_timeout = seconds(-1); }},
      {"idle_timeout", [](Options& o) { o.idle_timeout = seconds(0); }},
      {"receive_timeout", [](Options& o) { o.receive_timeout = seconds(0); }},
      {"write_timeout", [](Options& o) { o.write_timeout = Duration::max(); }},
      {"close_timeout", [](Options& o) { o.close_timeout = seconds(-1); }},
      {"keepalive", [](Options& o) { o.keepalive->interval = seconds(0); }},
      {"host", [](Options& o) { o.host = std::string("a\0b", 3); }},
  };
  for (const Bad& bad : kBad) {
    Options options;
    bad.spoil(options);
    const Status status = ValidateOptions(options);
    EXPECT_EQ(status.problem, Status::Problem::kBadOption) << bad.name;
    EXPECT_NE(status.message.find(bad.name), std::string::npos) << status.message;
  }
}

}  // namespace
}  // namespace iocp
