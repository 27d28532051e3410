// The keys that session tickets are encrypted with.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "base/mutex.h"

namespace iocp {

// Every copy is wiped when it goes.
struct TicketKey {
  static constexpr std::size_t kNameSize = 16;

  TicketKey() = default;
  TicketKey(const TicketKey&) = default;
  TicketKey& operator=(const TicketKey&) = default;
  ~TicketKey();

  std::array<unsigned char, kNameSize> name{};
  std::array<unsigned char, 32> mac{};
  std::array<unsigned char, 32> cipher{};
  std::size_t size = 32;  // bytes of `mac` and of `cipher` that count
  std::chrono::steady_clock::time_point made_at;
};

// The ticket keys of a server, for all its workers. Any thread.
class TicketKeys {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  // How long a key encrypts; it decrypts for twice as long after that. A ticket is good for two
  // hours.
  static constexpr std::chrono::hours kRotation{1};

  // Keys of 48 or 80 bytes, in nginx's order, which stay; none: its own, which are rotated.
  explicit TicketKeys(const std::vector<std::string>& keys);
  TicketKeys(const TicketKeys&) = delete;
  TicketKeys& operator=(const TicketKeys&) = delete;

  // The key to encrypt with. False when there is no randomness or memory for a new one.
  bool Current(TimePoint now, TicketKey* key);
  // The key with that name; `*is_current` is true exactly when it is the one that encrypts. False
  // when there is none, or no longer.
  bool Find(const unsigned char* name, TimePoint now, TicketKey* key, bool* is_current);

 private:
  bool Rotate(TimePoint now) IOCP_REQUIRES(mutex_);

  const bool rotates_;
  Mutex mutex_;
  // The one that encrypts first, and then from new to old.
  std::vector<TicketKey> keys_ IOCP_GUARDED_BY(mutex_);
};

}  // namespace iocp
