// The overlapped operations of the Windows port, and the sockets that they belong to.
#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "base/mutex.h"
#include "port/common/windows_net.h"

namespace iocp {

// Socket::state of a listener.
inline constexpr std::uint8_t kIsListener = 1;

// One overlapped operation. The system knows its OVERLAPPED. The operation counts as being with the
// system from its start until its result comes out of Wait, which may be by way of the system's
// queue or of the port's own.
struct IocpOperation {
  enum class Kind : std::uint8_t {
    kAccept,
    kAcceptEnd,      // the listener's: Cancel has ended the last accept
    kAcceptTrouble,  // the listener's: accepting has paused itself
    kRead,
    kReadEnd,   // a channel's: its reads have ended, and no result of theirs could report it
    kReadsDue,  // a channel's, never a result: its idle reads are to be posted anew
    kSend,
  };

  explicit IocpOperation(Kind kind_of) : kind(kind_of) {}

  OVERLAPPED overlapped{};
  const Kind kind;
  IocpOperation* next = nullptr;  // in the port's queue of results, or of reads that are due
  // The result, while it is in the queue of results.
  int code = 0;
  DWORD bytes = 0;

  static IocpOperation* Of(OVERLAPPED* overlapped) {
    return CONTAINING_RECORD(overlapped, IocpOperation, overlapped);
  }
};

struct IocpListener;
struct IocpChannel;

struct IocpListenerOperation : IocpOperation {
  IocpListenerOperation(Kind kind_of, IocpListener& of) : IocpOperation(kind_of), listener(of) {}

  IocpListener& listener;
};

struct IocpAccept : IocpListenerOperation {
  // AcceptEx wants 16 bytes beside each address.
  static constexpr DWORD kAddressRoom = sizeof(sockaddr_storage) + 16;

  explicit IocpAccept(IocpListener& of) : IocpListenerOperation(Kind::kAccept, of) {}

  SOCKET accepted = INVALID_SOCKET;
  char addresses[2 * kAddressRoom]{};
};

// The port's part of a listener; its Socket::port_data.
struct IocpListener {
  IocpListener(Socket& of, HANDLE its_port) : socket(of), port(its_port) {}

  Socket& socket;
  const HANDLE port;
  IocpListener* next = nullptr;  // in the port's list of all
  int family = AF_UNSPEC;
  LPFN_ACCEPTEX accept_ex = nullptr;
  LPFN_GETACCEPTEXSOCKADDRS get_addresses = nullptr;
  HANDLE arrived = nullptr;              // an event, set when a client finds no accept (FD_ACCEPT)
  HANDLE arrived_wait = nullptr;         // the thread pool's, for that event
  std::atomic<bool> client_came{false};  // true exactly when that is still to be acted on

  Mutex lock;  // for what follows
  std::vector<std::unique_ptr<IocpAccept>> accepts;
  std::vector<IocpAccept*> idle;  // of those, not with the system
  int wanted = 0;                 // how many are to be with the system
  bool paused = false;            // true exactly from Pause, or trouble, to Resume
  bool cancelled = false;         // true exactly when Cancel was called
  bool ended = false;             // true exactly when `end` is on its way
  bool in_trouble = false;        // true exactly when `trouble` is on its way
  IocpListenerOperation end{IocpOperation::Kind::kAcceptEnd, *this};
  IocpListenerOperation trouble{IocpOperation::Kind::kAcceptTrouble, *this};

  [[nodiscard]] std::size_t outstanding() const { return accepts.size() - idle.size(); }
  // Makes one when there is none; false when there is no memory.
  bool HasIdle() {
    if (!idle.empty()) return true;
    try {
      idle.reserve(accepts.size() + 1);  // so that none can be lost on its way back
      accepts.push_back(std::make_unique<IocpAccept>(*this));
    } catch (const std::bad_alloc&) {
      return false;
    }
    idle.push_back(accepts.back().get());
    return true;
  }
};

struct IocpChannelOperation : IocpOperation {
  IocpChannelOperation(Kind kind_of, IocpChannel& of) : IocpOperation(kind_of), channel(of) {}

  IocpChannel& channel;
};

struct IocpRead : IocpChannelOperation {
  explicit IocpRead(IocpChannel& of) : IocpChannelOperation(Kind::kRead, of) {}

  Block* block = nullptr;      // null: it receives no bytes and ends when there are some
  std::uint64_t sequence = 0;  // of a read with a block
};

// The port's record of one connection: its Socket::port_data.
struct IocpChannel {
  static constexpr std::uint64_t kNowhere = ~std::uint64_t{0};

  IocpChannel(Socket& of, std::size_t read_count) : socket(of), wanted(read_count) {
    for (std::size_t i = 0; i < read_count; ++i) {
      reads.push_back(std::make_unique<IocpRead>(*this));
      idle_reads.push_back(reads.back().get());
    }
  }

  Socket& socket;
  // Only the connection's owner sends, so the lock does not guard this.
  IocpChannelOperation send{IocpOperation::Kind::kSend, *this};

  Mutex lock;  // for what follows, and Socket::next_sequence
  std::vector<std::unique_ptr<IocpRead>> reads;
  std::vector<IocpRead*> idle_reads;  // those of them that are not with the system
  // How many are to be with the system: all at first, and for as long as the data fills them; else
  // one, which is enough for a peer that the server keeps up with.
  std::size_t wanted;
  std::uint64_t brought = 0;  // completions of the receive that came out of Wait
  bool due = false;           // true exactly when `reads_due` is in the port's queue
  bool receiving = false;     // true exactly from Receive until the last read has ended
  bool paused = false;        // true exactly from Pause to Resume
  bool cancelled = false;     // true exactly when Cancel was called
  // The lowest sequence of a read that has ended with the end of the stream or an error.
  std::uint64_t broken_at = kNowhere;
  // True exactly when a send found the connection reset. A receive that then saw an end of stream
  // would be wrong (R7).
  bool reset = false;
  IocpChannelOperation read_end{IocpOperation::Kind::kReadEnd, *this};
  IocpChannelOperation reads_due{IocpOperation::Kind::kReadsDue, *this};

  [[nodiscard]] std::size_t outstanding() const { return reads.size() - idle_reads.size(); }
  [[nodiscard]] bool broken() const { return broken_at != kNowhere; }
};

}  // namespace iocp
