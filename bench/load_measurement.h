// The instruments of iocp_load: latencies, the server's process, and the phases of a run.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "load_options.h"

namespace load {

// Log-linear buckets as in HdrHistogram: 128 per power of two, so a value is off by less than 1 %.
class Histogram {
 public:
  void Record(std::uint64_t value) {
    ++counts_[Index(value)];
    ++total_;
    max_ = std::max(max_, value);
  }

  void Clear() {
    counts_.fill(0);
    total_ = 0;
    max_ = 0;
  }

  [[nodiscard]] std::uint64_t total() const { return total_; }
  [[nodiscard]] std::uint64_t max() const { return max_; }

  // The value that the share `quantile` of all values does not exceed; 0 when there is none.
  [[nodiscard]] std::uint64_t Quantile(double quantile) const {
    const auto wanted =
        static_cast<std::uint64_t>(quantile * static_cast<double>(total_) + 0.999999);
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= wanted && seen > 0) return std::min(Middle(i), max_);
    }
    return max_;
  }

 private:
  static constexpr unsigned kSubBits = 7;
  static constexpr std::size_t kSubBuckets = std::size_t{1} << kSubBits;
  static constexpr std::uint64_t kMaxValue = (std::uint64_t{1} << 40U) - 1;  // 18 minutes

  static std::size_t Index(std::uint64_t value) {
    value = std::min(value, kMaxValue);
    const auto width = static_cast<unsigned>(std::bit_width(value));
    const unsigned shift = width > kSubBits + 1 ? width - kSubBits - 1 : 0;
    return shift * kSubBuckets + static_cast<std::size_t>(value >> shift);
  }

  static std::uint64_t Middle(std::size_t index) {
    if (index < 2 * kSubBuckets) return index;
    const std::size_t shift = index / kSubBuckets - 1;
    const std::uint64_t low = static_cast<std::uint64_t>(index - shift * kSubBuckets) << shift;
    return low + (std::uint64_t{1} << shift) / 2;
  }

  std::array<std::uint64_t, (40 - kSubBits + 1) * kSubBuckets> counts_{};
  std::uint64_t total_ = 0;
  std::uint64_t max_ = 0;
};

// The measured server's CPU clock (all its threads, in nanoseconds) and memory.
class ServerProcess {
 public:
  explicit ServerProcess(pid_t pid) : pid_(pid) {
    if (pid_ == 0) return;
    const int error = clock_getcpuclockid(pid_, &clock_);
    if (error != 0) Fail(kRunError, "no process %d to measure: %s", pid_, ErrorText(error).c_str());
  }

  [[nodiscard]] std::uint64_t CpuTime() const { return pid_ == 0 ? 0 : Clock(clock_); }

  [[nodiscard]] std::uint64_t ResidentKib() const {
    if (pid_ == 0) return 0;
    const std::string path = "/proc/" + std::to_string(pid_) + "/statm";
    std::FILE* file = std::fopen(path.c_str(), "re");
    if (file == nullptr) return 0;
    std::uint64_t pages = 0;
    if (std::fscanf(file, "%*u %" SCNu64, &pages) != 1) pages = 0;
    std::fclose(file);
    return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) / 1024;
  }

 private:
  pid_t pid_;
  clockid_t clock_{};
};

// Warm-up, measured time, drain; and the figures of the measured time.
class Measurement {
 public:
  explicit Measurement(const Options& options) : options_(options), server_(options.server_pid) {}

  void Begin(std::uint64_t now) {
    phase_end_ = now + options_.warm_up;
    last_progress_ = now;
  }

  [[nodiscard]] bool draining() const { return phase_ == Phase::kDrain; }

  void Record(std::uint64_t started, std::uint64_t now) {
    if (phase_ == Phase::kMeasure) latencies_.Record(now - started);
    progress_ = true;
  }

  // Between two batches of events: moves to the next phase when it is time; fails when nothing came
  // back for long. `waiting` is the number of connections that wait for something.
  void Tick(std::uint64_t now, std::size_t waiting) {
    if (progress_) {
      progress_ = false;
      last_progress_ = now;
    } else if (now - last_progress_ > kStallTimeout) {
      Fail(kRunError, "nothing came back for %" PRIu64 " s; %zu connections are waiting",
           kStallTimeout / kSecond, waiting);
    }
    if (phase_ != Phase::kDrain && now >= phase_end_) NextPhase(now);
  }

  [[nodiscard]] int WaitMilliseconds(std::uint64_t now) const {
    std::uint64_t until = last_progress_ + kStallTimeout;
    if (phase_ != Phase::kDrain) until = std::min(until, phase_end_);
    return until > now ? static_cast<int>((until - now) / 1'000'000) + 1 : 0;
  }

  void PrintJson() const {
    const double seconds = Seconds(ended_ - started_);
    const auto requests = static_cast<double>(latencies_.total());
    std::printf(
        "{\"mode\": \"%s\", \"framing\": \"%s\", \"connections\": %zu, \"bytes\": %zu, "
        "\"in_flight\": %zu, "
        "\"seconds\": %.6f, \"requests\": %" PRIu64
        ", \"requests_per_second\": %.1f, "
        "\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, "
        "\"load_cpu\": %.4f, \"server_cpu\": %.4f, \"server_cpu_us_per_request\": %.4f, "
        "\"server_rss_kib\": %" PRIu64 "}\n",
        options_.connect_mode ? "connect" : "echo", NameOf(options_.framing), options_.connections,
        options_.bytes, options_.in_flight, seconds, latencies_.total(), requests / seconds,
        Quantile(0.5), Quantile(0.99), Quantile(0.999), static_cast<double>(latencies_.max()) / 1e3,
        Seconds(own_cpu_) / seconds, Seconds(server_cpu_) / seconds,
        Seconds(server_cpu_) * 1e6 / std::max(requests, 1.0), resident_kib_);
  }

 private:
  enum class Phase : std::uint8_t { kWarmUp, kMeasure, kDrain };

  static double Seconds(std::uint64_t nanoseconds) {
    return static_cast<double>(nanoseconds) / 1e9;
  }

  [[nodiscard]] double Quantile(double quantile) const {
    return static_cast<double>(latencies_.Quantile(quantile)) / 1e3;
  }

  void NextPhase(std::uint64_t now) {
    if (phase_ == Phase::kWarmUp) {
      phase_ = Phase::kMeasure;
      phase_end_ = now + options_.duration;
      started_ = now;
      server_cpu_ = server_.CpuTime();
      own_cpu_ = Clock(CLOCK_PROCESS_CPUTIME_ID);
    } else {
      phase_ = Phase::kDrain;
      ended_ = now;
      server_cpu_ = server_.CpuTime() - server_cpu_;
      own_cpu_ = Clock(CLOCK_PROCESS_CPUTIME_ID) - own_cpu_;
      resident_kib_ = server_.ResidentKib();
      if (latencies_.total() == 0) Fail(kRunError, "no echo came back in the measured time");
    }
  }

  const Options& options_;
  ServerProcess server_;
  Histogram latencies_;
  Phase phase_ = Phase::kWarmUp;
  std::uint64_t phase_end_ = 0;
  std::uint64_t last_progress_ = 0;
  bool progress_ = false;
  std::uint64_t started_ = 0;
  std::uint64_t ended_ = 0;
  std::uint64_t own_cpu_ = 0;
  std::uint64_t server_cpu_ = 0;
  std::uint64_t resident_kib_ = 0;
};

}  // namespace load
