// CIOCPServer on iocp::Server: for code written against the classic Windows class of that name
// (Wang Yanping, Zhang Yue, "Windows Network and Communication Programming", with the keep-alive
// and the corrections of 2009 and 2010). A subclass changes its include line and nothing else.
//
// The same as in the original: the names below, their meaning, IPv4 on all interfaces, two threads,
// first data with OnConnectionEstablished, one of OnConnectionClosing and OnConnectionError.
// docs/using/coming-from-ciocpserver.md lists what is better, and which names have gone.
//
// Threads. Hooks run on MAX_THREAD worker threads. Those of one connection are serial and in order,
// those of different connections run in parallel. No lock of this class is held while a hook runs,
// so a hook may call anything here; one that blocks holds up only what its own worker serves. Every
// function may be called from any thread, but Start and the destructor, which want one thread at a
// time. An exception that leaves a hook ends its connection, not the process.
//
// Contexts. A CIOCPContext is the server's. It is good from OnConnectionEstablished until the
// closing or error hook has returned; after that it is a dead handle: SendText answers FALSE and
// CloseAConnection does nothing. Its memory stays until the server is destroyed, and serves another
// connection only after 1,024 others have ended since; from then on an old pointer means that one.
//
// Buffers. The CIOCPBuffer of a hook is the server's, and good until the hook returns; what it
// holds may be changed in place. `buff` has BUFFER_SIZE bytes, of which `nLen` are used, and a NUL
// behind them. A hook never gets more than BUFFER_SIZE bytes of what was received.
//
// Destruction. The destructor stops a server that still runs, as the original's did. The parts of
// the subclass are gone by then, so hooks that use members of the subclass need Shutdown before
// those go: first thing in the destructor of the subclass, or before `delete`. It must not be
// destroyed in a hook.
#pragma once

#include <atomic>
#include <memory>

#ifdef _WIN32

#include <winsock2.h>
// after winsock2.h
#include <mswsock.h>
#include <windows.h>

#else

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <mutex>

// NOLINTBEGIN(readability-identifier-naming): the names of Windows.

// The parts of Windows that a subclass needs beside this class: the types of its signatures, error
// codes of OnConnectionError, and the lock that such programs use. Widths are those of Windows.
using BOOL = int;
using UINT = unsigned int;
using LONG = std::int32_t;
using ULONG = std::uint32_t;
using DWORD = std::uint32_t;
using SOCKET = int;
using SOCKADDR = sockaddr;
using SOCKADDR_IN = sockaddr_in;

#ifndef TRUE
#define TRUE 1
#endif
#ifndef FALSE
#define FALSE 0
#endif
#define NO_ERROR 0
#define INVALID_SOCKET (-1)
#define SOCKET_ERROR (-1)
#define WSAEADDRINUSE EADDRINUSE
#define WSAEALREADY EALREADY
#define WSAECONNABORTED ECONNABORTED
#define WSAECONNRESET ECONNRESET
#define WSAEINVAL EINVAL
#define WSAETIMEDOUT ETIMEDOUT
inline int WSAGetLastError() { return errno; }

// As on Windows the thread that has it may enter again. Not to be copied.
struct CRITICAL_SECTION {
  std::recursive_mutex mutex;
};
inline void InitializeCriticalSection(CRITICAL_SECTION* /*section*/) {}
inline void DeleteCriticalSection(CRITICAL_SECTION* /*section*/) {}
inline void EnterCriticalSection(CRITICAL_SECTION* section) { section->mutex.lock(); }
inline BOOL TryEnterCriticalSection(CRITICAL_SECTION* section) {
  return section->mutex.try_lock() ? TRUE : FALSE;
}
inline void LeaveCriticalSection(CRITICAL_SECTION* section) { section->mutex.unlock(); }

// NOLINTEND(readability-identifier-naming)

#endif

// NOLINTBEGIN(readability-identifier-naming): the names of the original.

#define BUFFER_SIZE (1024 * 4)  // bytes of a buffer
#define MAX_THREAD 2            // worker threads

// Values of CIOCPBuffer::nOperation.
#define OP_ACCEPT 1
#define OP_WRITE 2
#define OP_READ 3

namespace iocp {
struct Options;
}

// Bytes, and how many. See "Buffers" above; one from AllocateBuffer is the caller's.
struct CIOCPBuffer {
  char* buff = nullptr;
  int nLen = 0;                  // bytes used
  ULONG nSequenceNumber = 0;     // of a read: its number in its connection, from 0
  int nOperation = 0;            // OP_ACCEPT: first data; OP_READ; OP_WRITE
  CIOCPBuffer* pNext = nullptr;  // its owner's
};

// One connection. See "Contexts" above.
struct CIOCPContext {
  // The connection's number, from 0x40000000 up, for tables and messages; INVALID_SOCKET never. It
  // is no handle: a socket function refuses it, so nothing can be closed or sent behind the
  // server's back. Constant, as are the addresses.
  SOCKET s = INVALID_SOCKET;
  SOCKADDR_IN addrLocal{};   // network byte order
  SOCKADDR_IN addrRemote{};  // the client's
  // TRUE exactly when nothing can be sent any more and somebody has noticed: it was closed here, a
  // send was refused for it, or it has ended. Distinguishes a closed connection from a full
  // backlog.
  std::atomic<BOOL> bClosing{TRUE};
  std::atomic<int> nOutstandingSend{0};  // sends taken and not completed
  CRITICAL_SECTION Lock{};  // what the server keeps of its sends; for a moment, never in a hook
  std::atomic<bool> bNotifyCloseOrError{true};  // true exactly when closing or error was reported
  CIOCPContext* pNext = nullptr;                // in m_pConnectionList; under its lock
};

class CIOCPServer {
 public:
  CIOCPServer();
  CIOCPServer(const CIOCPServer&) = delete;
  CIOCPServer& operator=(const CIOCPServer&) = delete;
  virtual ~CIOCPServer();

  // TRUE when clients can connect. FALSE when it runs already, a number is out of its range (ports
  // are 0 to 65535, 0 lets the system pick: see m_nPort), or the system refuses (the port is in
  // use): nothing is left behind then, and WSAGetLastError has the reason. Connections above
  // `max_connections` are reset when they come; silent ones count. `max_free_buffers` and
  // `max_free_contexts` are kept for reuse. `initial_reads` are posted per connection, on Windows.
  BOOL Start(int port = 4567, int max_connections = 2000, int max_free_buffers = 200,
             int max_free_contexts = 100, int initial_reads = 4);
  // Stops accepting, closes all connections, waits for them at most 5 s, resets those that are
  // left. After it no hook runs, and Start may be called again. In a hook it returns at once, and
  // the shutdown continues after it. Do not call it under a lock that a hook takes: the closing
  // hook of each connection runs meanwhile.
  void Shutdown();

  // Sends what is queued, ends the stream, closes; OnConnectionClosing, or OnConnectionError when
  // that goes wrong, follows. No OnReadCompleted does. Any pointer ever given to a hook will do,
  // and null.
  void CloseAConnection(CIOCPContext* context);
  void CloseAllConnections();

  // Connections that were reported and have not ended: each counts from just before
  // OnConnectionEstablished until just after the closing or error hook.
  ULONG GetCurrentConnection();

  // Copies and queues `length` bytes; never blocks. TRUE: they will be sent in full, in the order
  // of such calls, and OnWriteCompleted reports that the system has taken them, unless the
  // connection ends before. FALSE, and nothing was queued: the connection is closed (bClosing), its
  // backlog is full (see m_nMaxSends), `length` is negative or there is no memory. Any length. A
  // `const` pointer, as C++20 lets no string literal be a `char*`; a `char*` will do.
  BOOL SendText(CIOCPContext* context, const char* text, int length);

 protected:
  // A buffer of the caller's, zeroed, with room for BUFFER_SIZE bytes or `length` if that is more.
  // Null for a negative length and when there is no memory.
  CIOCPBuffer* AllocateBuffer(int length);
  // Frees a buffer of AllocateBuffer. Ignores a hook's buffer, and null.
  void ReleaseBuffer(CIOCPBuffer* buffer);
  // SendText without the copy: TRUE takes over a buffer of AllocateBuffer; after FALSE it is still
  // the caller's. A hook's buffer is copied.
  BOOL PostSend(CIOCPContext* context, CIOCPBuffer* buffer);

  // Calls the hook on this thread, unless closing or error was reported already; closes nothing.
  void NotifyConnectionClosing(CIOCPContext* context, CIOCPBuffer* buffer);
  void NotifyConnectionError(CIOCPContext* context, CIOCPBuffer* buffer, int error);

  // The hooks. For a client that never sends, none is called; it is closed after two minutes.

  // Called first, once, with the first data.
  virtual void OnConnectionEstablished(CIOCPContext* /*context*/, CIOCPBuffer* /*buffer*/) {}
  // The connection has ended in order, whoever ended it: the client, CloseAConnection, Shutdown.
  // One of this and OnConnectionError, once, last. `nLen` is 0.
  virtual void OnConnectionClosing(CIOCPContext* /*context*/, CIOCPBuffer* /*buffer*/) {}
  // It broke. `error` is the system's code, a Winsock code or errno, never 0: WSAECONNRESET for a
  // reset on both. `nLen` is 0.
  virtual void OnConnectionError(CIOCPContext* /*context*/, CIOCPBuffer* /*buffer*/,
                                 int /*error*/) {}
  virtual void OnReadCompleted(CIOCPContext* /*context*/, CIOCPBuffer* /*buffer*/) {}
  // Once for each SendText or PostSend that was taken, in their order, with the bytes sent.
  virtual void OnWriteCompleted(CIOCPContext* /*context*/, CIOCPBuffer* /*buffer*/) {}

  // Beyond the original: all that iocp::Options offers, such as the host (one of IPv4: the
  // addresses above hold no other), back-end and timeouts. Called by Start, on its thread, with
  // what Start is about to use. The two that say what hooks get stay: established_on, buffer_size.
  virtual void AdjustOptions(iocp::Options& /*options*/) {}

  // All open connections, newest first, linked by pNext: for a walk under the lock. In it, SendText
  // and CloseAConnection are safe; no hook runs under it, and none must be waited for.
  CIOCPContext* m_pConnectionList = nullptr;
  int m_nCurrentConnection = 0;  // under the same lock
  CRITICAL_SECTION m_ConnectionListLock{};

  // Set by Start from its arguments. m_nPort is the port really bound once Start has returned.
  int m_nPort = 4567;
  int m_nInitialReads = 4;
  int m_nMaxFreeBuffers = 200;
  int m_nMaxFreeContexts = 100;
  int m_nMaxConnections = 2000;
  // For a subclass to set before Start. Accepts posted ahead, on Windows, at first and at most.
  int m_nInitialAccepts = 10;
  int m_nMaxAccepts = 100;
  // The backlog of a connection in full buffers: with m_nMaxSends * BUFFER_SIZE bytes or more to
  // send SendText answers FALSE. Well before that, a client that does not receive is not read from
  // any more: an echo never meets the limit.
  int m_nMaxSends = 20;

  // For reading. TRUE exactly while it starts or runs, and TRUE exactly from Shutdown to the next
  // Start.
  std::atomic<BOOL> m_bServerStarted{FALSE};
  std::atomic<BOOL> m_bShutDown{FALSE};

 private:
  class Forwarder;

  // The engine's server and its handler.
  std::unique_ptr<Forwarder> forwarder_;
};

// NOLINTEND(readability-identifier-naming)
