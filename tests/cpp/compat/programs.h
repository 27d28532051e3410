// Programs as they are written for the classic CIOCPServer, on cpp/compat/ciocpserver.h; and what
// their tests share.
#pragma once

#if defined(_WIN32) && !defined(NOMINMAX)
#define NOMINMAX  // for the tests; the header is the programs' and leaves such things to them
#endif
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "compat/ciocpserver.h"
#include "support/backends.h"
#include "support/client.h"

namespace programs {

using iocp::testing::Client;
using iocp::testing::Eventually;

// The calls of hooks, in order, and whether the order is one that the original's users may rely on.
class Log {
 public:
  enum class Hook { kEstablished, kRead, kWrite, kClosing, kError };
  struct Event {
    Hook hook{};
    CIOCPContext* context = nullptr;
    SOCKET connection = INVALID_SOCKET;
    std::string bytes;
    int error = 0;
    ULONG connections = 0;
  };

  void Add(Event event) {
    const std::lock_guard lock(mutex_);
    event.connection = event.context->s;
    if (event.hook == Hook::kEstablished) {
      EXPECT_TRUE(open_.insert(event.connection).second) << "established twice";
    } else if (event.hook == Hook::kClosing || event.hook == Hook::kError) {
      EXPECT_EQ(open_.erase(event.connection), 1U) << "ended twice, or never established";
    } else {
      EXPECT_EQ(open_.count(event.connection), 1U) << "a hook before the first or after the last";
    }
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  std::vector<Event> Of(Hook hook) const {
    const std::lock_guard lock(mutex_);
    std::vector<Event> some;
    std::copy_if(events_.begin(), events_.end(), std::back_inserter(some),
                 [&](const Event& event) { return event.hook == hook; });
    return some;
  }
  std::size_t Count(Hook hook) const { return Of(hook).size(); }
  // The bytes of all such hooks together.
  std::string BytesOf(Hook hook) const {
    std::string bytes;
    for (const Event& event : Of(hook)) bytes += event.bytes;
    return bytes;
  }
  bool WaitFor(Hook hook, std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, iocp::testing::kDeadline, [&] {
      return std::count_if(events_.begin(), events_.end(), [&](const Event& event) {
               return event.hook == hook;
             }) >= static_cast<std::ptrdiff_t>(count);
    });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Event> events_;
  std::set<SOCKET> open_;
};
using Hook = Log::Hook;

// --- Programs for the original: its types, its idioms, nothing of ours but the include line.
// NOLINTBEGIN(readability-identifier-naming, modernize-use-override, modernize-use-nullptr)

class CEchoServer : public CIOCPServer {
 public:
  explicit CEchoServer(Log* pLog) : m_pLog(pLog) {}

  void OnConnectionEstablished(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kEstablished, pContext, pBuffer, 0);
    SendText(pContext, pBuffer->buff, pBuffer->nLen);
  }
  void OnConnectionClosing(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kClosing, pContext, pBuffer, 0);
  }
  void OnConnectionError(CIOCPContext* pContext, CIOCPBuffer* pBuffer, int nError) {
    Note(Hook::kError, pContext, pBuffer, nError);
  }
  void OnReadCompleted(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kRead, pContext, pBuffer, 0);
    SendText(pContext, pBuffer->buff, pBuffer->nLen);
  }
  void OnWriteCompleted(CIOCPContext* pContext, CIOCPBuffer* pBuffer) {
    Note(Hook::kWrite, pContext, pBuffer, 0);
  }

 protected:
  void Note(Hook hook, CIOCPContext* pContext, CIOCPBuffer* pBuffer, int nError) {
    if (m_pLog == NULL) return;
    m_pLog->Add({hook, pContext, INVALID_SOCKET,
                 std::string(pBuffer->buff, static_cast<std::size_t>(pBuffer->nLen)), nError,
                 GetCurrentConnection()});
  }

  Log* m_pLog;
};

// NOLINTEND(readability-identifier-naming, modernize-use-override, modernize-use-nullptr)

// Such a program on one back-end and on the loopback interface, with its protected parts in reach.
template <typename Program>
class Running : public Program {
 public:
  template <typename... Arguments>
  explicit Running(const std::string& backend, Arguments... arguments)
      : Program(arguments...), backend_(backend) {}
  ~Running() override { this->Shutdown(); }

  using Program::AllocateBuffer;
  using Program::m_bServerStarted;
  using Program::m_bShutDown;
  using Program::m_nMaxConnections;
  using Program::m_nMaxSends;
  using Program::m_nPort;
  using Program::NotifyConnectionClosing;
  using Program::PostSend;
  using Program::ReleaseBuffer;

  iocp::Options options;                  // as Start made them
  std::size_t buffer_size = BUFFER_SIZE;  // of the engine

  [[nodiscard]] Client Connect() const {
    iocp::Address address;
    address.port = static_cast<std::uint16_t>(this->m_nPort);
    return Client(address);
  }

 protected:
  void AdjustOptions(iocp::Options& adjusted) override {
    options = adjusted;
    adjusted.host = "127.0.0.1";
    adjusted.backend = backend_;
    adjusted.buffer_size = 65536;  // without effect: a hook has room for BUFFER_SIZE
    if (adjusted.port == 4567) adjusted.port = 0;  // others may use it
  }

 private:
  const std::string backend_;
};

class CIOCPServerTest : public ::testing::TestWithParam<std::string> {
 protected:
  template <typename Program = CEchoServer>
  using On = Running<Program>;

  // The client's end of one that was served, with `first` as its first data.
  template <typename Program>
  static Client Served(const On<Program>& server, const std::string& first) {
    Client client = server.Connect();
    client.Send(first);
    EXPECT_EQ(client.Receive(first.size()), first);
    return client;
  }
  // Shuts down while clients answer the end of their streams with their own.
  template <typename Program>
  static void ShutdownWith(On<Program>& server, std::vector<Client>& clients) {
    std::thread ending([&] {
      for (Client& client : clients) {
        EXPECT_EQ(client.Receive(1), "") << "sent what nobody asked for";
        client.Close();
      }
    });
    server.Shutdown();
    ending.join();
  }

  Log log_;
};

inline std::string Pattern(std::size_t size) {
  std::string data(size, '\0');
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<char>(i * 31 + i / 251);
  return data;
}

}  // namespace programs
