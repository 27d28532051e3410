#include "engine/options.h"

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "session/time_limit.h"

namespace iocp {
namespace {

class Validator {
 public:
  template <std::integral Number>
  void Range(const char* name, Number value, std::type_identity_t<Number> low,
             std::type_identity_t<Number> high) {
    if (value >= low && value <= high) return;
    Refuse(std::string(name) + " must be between " + std::to_string(low) + " and " +
           std::to_string(high) + ", not " + std::to_string(value));
  }
  // An empty message refuses nothing; of several the first counts.
  void Refuse(const std::string& message) {
    if (message.empty() || !status_.ok()) return;
    status_.problem = Status::Problem::kBadOption;
    status_.error = {ErrorKind::kInvalidArgument, 0};
    status_.message = message;
  }
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  Status status_;
};

}  // namespace

Status ValidateOptions(const Options& options) {
  constexpr int kMany = 10'000'000;
  // A tebibyte, or where addresses are shorter all of them.
  constexpr auto kHugeBytes = static_cast<std::size_t>(
      std::min<std::uint64_t>(std::uint64_t{1} << 40U, std::numeric_limits<std::size_t>::max()));
  Validator check;
  check.Range("port", options.port, 0, 65535);
  check.Range("workers", options.workers, 1, 1024);
  check.Range("max_connections", options.max_connections, 1, kMany);
  check.Range("listen_backlog", options.listen_backlog, 1, 65535);
  check.Range("initial_accepts", options.initial_accepts, 1, 10'000);
  check.Range("max_accepts", options.max_accepts, 1, 10'000);
  if (options.max_accepts < options.initial_accepts) {
    check.Refuse("max_accepts (" + std::to_string(options.max_accepts) +
                 ") must be at least initial_accepts (" + std::to_string(options.initial_accepts) +
                 ")");
  }
  check.Range("initial_reads", options.initial_reads, 0, 64);
  check.Range("buffer_size", options.buffer_size, 512, 16 * 1024 * 1024);
  check.Range("max_free_buffers", options.max_free_buffers, 0, kMany);
  check.Range("max_free_contexts", options.max_free_contexts, 0, kMany);
  check.Range("send_backlog_limit", options.send_backlog_limit, 1, kHugeBytes);
  if (options.max_pending_sends) {
    check.Range("max_pending_sends", *options.max_pending_sends, 1, kMany);
  }
  check.Range("write_high_water", options.write_high_water, 0, kHugeBytes);
  if (options.write_low_water > options.write_high_water) {
    check.Refuse("write_low_water (" + std::to_string(options.write_low_water) +
                 ") must be at most write_high_water (" + std::to_string(options.write_high_water) +
                 ")");
  }
  check.Refuse(RefuseTimeout("first_data_timeout", options.first_data_timeout));
  check.Refuse(RefuseTimeout("idle_timeout", options.idle_timeout));
  check.Refuse(RefuseTimeout("receive_timeout", options.receive_timeout));
  check.Refuse(RefuseTimeout("message_timeout", options.message_timeout));
  check.Refuse(RefuseTimeout("write_timeout", options.write_timeout));
  check.Refuse(RefuseDuration("close_timeout", options.close_timeout, true));
  if (options.keepalive) {
    check.Refuse(RefuseDuration("keepalive idle", options.keepalive->idle, false));
    check.Refuse(RefuseDuration("keepalive interval", options.keepalive->interval, false));
  }
  if (options.tls && !options.tls.is_server()) {
    check.Refuse("tls must be made by Tls::Server, not by Tls::Client");
  }
  if (options.host.find('\0') != std::string::npos) check.Refuse("host must not contain NUL");
  return check.status();
}

}  // namespace iocp
