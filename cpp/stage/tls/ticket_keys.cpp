#include "stage/tls/ticket_keys.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>

namespace iocp {
namespace {

constexpr std::size_t kSmallKey = 48;

TicketKey Parse(const std::string& bytes) {
  TicketKey key;
  const char* from = bytes.data();
  const auto take = [&](unsigned char* to, std::size_t size) {
    std::memcpy(to, from, size);
    from += size;
  };
  take(key.name.data(), key.name.size());
  if (bytes.size() == kSmallKey) {
    key.size = 16;
    take(key.cipher.data(), key.size);
    take(key.mac.data(), key.size);
  } else {
    take(key.mac.data(), key.size);
    take(key.cipher.data(), key.size);
  }
  return key;
}

}  // namespace

TicketKey::~TicketKey() { OPENSSL_cleanse(this, sizeof(*this)); }

TicketKeys::TicketKeys(const std::vector<std::string>& keys) : rotates_(keys.empty()) {
  for (const std::string& key : keys) keys_.push_back(Parse(key));
}

// Keys that are too old go, even if nobody has come for long, and a new one encrypts.
bool TicketKeys::Rotate(TimePoint now) {
  if (!rotates_) return true;
  std::erase_if(keys_, [&](const TicketKey& key) { return now - key.made_at >= 3 * kRotation; });
  if (!keys_.empty() && now - keys_.front().made_at < kRotation) return true;
  TicketKey key;
  key.made_at = now;
  if (RAND_bytes(key.name.data(), static_cast<int>(key.name.size())) != 1 ||
      RAND_priv_bytes(key.mac.data(), static_cast<int>(key.mac.size())) != 1 ||
      RAND_priv_bytes(key.cipher.data(), static_cast<int>(key.cipher.size())) != 1) {
    return false;
  }
  keys_.insert(keys_.begin(), key);
  return true;
}

bool TicketKeys::Current(TimePoint now, TicketKey* key) {
  const MutexLock lock(mutex_);
  if (!Rotate(now)) return false;
  *key = keys_.front();
  return true;
}

bool TicketKeys::Find(const unsigned char* name, TimePoint now, TicketKey* key, bool* is_current) {
  const MutexLock lock(mutex_);
  if (!Rotate(now)) return false;
  const auto found = std::find_if(keys_.begin(), keys_.end(), [&](const TicketKey& candidate) {
    return std::memcmp(candidate.name.data(), name, TicketKey::kNameSize) == 0;
  });
  if (found == keys_.end()) return false;
  *key = *found;
  *is_current = found == keys_.begin();
  return true;
}

}  // namespace iocp
