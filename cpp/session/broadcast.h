// One send to many connections.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "iocp/connection.h"
#include "iocp/framing.h"
#include "stream/send_item.h"

namespace iocp {

class Session;

// One copy of bytes for many sends; the last of them to end frees it. Belongs to one thread, but
// for the copy.
class SharedCopy {
 public:
  explicit SharedCopy(std::string bytes);
  SharedCopy(const SharedCopy&) = delete;
  SharedCopy& operator=(const SharedCopy&) = delete;
  ~SharedCopy();

  SendResult SendTo(Session& session, SendMemory* memory) const;

 private:
  struct Shared;
  Shared* const shared_;
};

// Sends the same to many connections. Any thread.
class Broadcasting {
 public:
  Broadcasting() = default;
  Broadcasting(const Broadcasting&) = delete;
  Broadcasting& operator=(const Broadcasting&) = delete;

  // Sends to each of `to`, of whatever server, and returns how many have accepted it. Only those
  // whose backlog was full are left in `to`, and are counted by their servers. Throws
  // std::bad_alloc when there is no memory: some may have accepted it then.
  std::size_t SendToEach(std::vector<ConnectionPtr>& to);

 protected:
  ~Broadcasting() = default;
  // None: the connection is left out.
  virtual std::optional<SendResult> SendTo(Session& session, SendMemory* memory) = 0;
};

// The bytes must live as long as the object.
class BytesBroadcast final : public Broadcasting {
 public:
  explicit BytesBroadcast(std::string_view bytes) : bytes_(bytes) {}
  std::optional<SendResult> SendTo(Session& session, SendMemory* memory) override;

 private:
  const std::string_view bytes_;
  std::optional<SharedCopy> shared_;  // of many bytes
};

// A message, which is encoded once for each framing. It must live as long as the object. SendToEach
// may throw std::invalid_argument as well: see Framing::Encode.
class MessageBroadcast final : public Broadcasting {
 public:
  explicit MessageBroadcast(std::string_view message) : message_(message) {}

 private:
  std::optional<SendResult> SendTo(Session& session, SendMemory* memory) override;

  const std::string_view message_;
  std::unordered_map<FramingPtr, SharedCopy> frames_;
};

// Leaves each connection in `connections` once, in any order, and no null.
void RemoveDuplicates(std::vector<ConnectionPtr>& connections);

}  // namespace iocp
