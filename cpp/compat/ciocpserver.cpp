// The original's connection and buffer structures, kept over iocp::Server.
#if defined(_WIN32) && !defined(NOMINMAX)
#define NOMINMAX
#endif
#include "compat/ciocpserver.h"

#include <iocp/iocp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

namespace {

class Entered {
 public:
  explicit Entered(CRITICAL_SECTION& section) : section_(section) {
    ::EnterCriticalSection(&section_);
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  ~Entered() { ::LeaveCriticalSection(&section_); }

 private:
  CRITICAL_SECTION& section_;
};

struct Record;

// The inside of a CIOCPBuffer. It does not reach the bytes through `buff`, which a user may move.
struct Memory : CIOCPBuffer {
  enum class Owner : std::uint8_t {
    kCaller,  // from AllocateBuffer
    kServer,  // taken by PostSend
    kHook,    // a hook has it
  };

  Memory(Owner has, char* bytes) : owner(has) { buff = bytes; }

  Owner owner;
  Record* record = nullptr;  // where it was sent to
  // Under the record's Lock. It is freed when both are true.
  bool reported = false;  // OnWriteCompleted has returned, or will not be called
  bool released = false;  // the engine no longer needs the bytes

  // Null when there is no memory. `size` bytes and a NUL; not initialized but for that.
  static Memory* New(std::size_t size) {
    void* const place = ::operator new(sizeof(Memory) + size + 1, std::nothrow);
    if (place == nullptr) return nullptr;
    char* const bytes = static_cast<char*>(place) + sizeof(Memory);
    bytes[size] = '\0';
    return new (place) Memory(Owner::kCaller, bytes);
  }
  static void Delete(Memory* memory) {
    memory->~Memory();
    ::operator delete(memory);
  }
  static Memory& Of(CIOCPBuffer& buffer) { return static_cast<Memory&>(buffer); }
};

// The inside of a CIOCPContext.
struct Record : CIOCPContext {
  Record() { ::InitializeCriticalSection(&Lock); }
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;
  ~Record() { ::DeleteCriticalSection(&Lock); }

  static Record& Of(CIOCPContext& context) { return static_cast<Record&>(context); }

  // Under Lock.
  iocp::ConnectionPtr connection;   // null exactly when this is a dead handle
  Memory* first_sending = nullptr;  // taken and not reported, in the order of the stream
  Memory* last_sending = nullptr;

  // Under m_ConnectionListLock.
  Record* previous = nullptr;   // in m_pConnectionList
  Record* next_dead = nullptr;  // once it is a dead handle

  ULONG reads = 0;  // for the connection's hooks
};

// A buffer of a hook, with its bytes.
struct HookBuffer : Memory {
  HookBuffer() : Memory(Owner::kHook, bytes) { Fill({}, OP_READ); }
  // Anew for each hook: the one before may have changed anything.
  void Fill(std::string_view data, int operation) {
    data.copy(bytes, data.size());
    bytes[data.size()] = '\0';
    buff = bytes;
    nLen = static_cast<int>(data.size());
    nOperation = operation;
    pNext = nullptr;
  }

  char bytes[BUFFER_SIZE + 1];
};

void Release(void* owner) {
  auto* const memory = static_cast<Memory*>(owner);
  bool last = false;
  {
    const Entered lock(memory->record->Lock);
    memory->released = true;
    last = memory->reported;
  }
  if (last) Memory::Delete(memory);
}

// OnWriteCompleted is over for it, or will not come.
void EndReport(Memory* memory) {
  bool last = false;
  {
    const Entered lock(memory->record->Lock);
    memory->reported = true;
    last = memory->released;
  }
  if (last) Memory::Delete(memory);
}

// The system's code; where it named none, the nearest that there is.
int CodeOf(const iocp::Error& error, int otherwise) {
  if (error.code != 0) return error.code;
  return error.kind == iocp::ErrorKind::kTimedOut ? WSAETIMEDOUT : otherwise;
}

void LeaveErrorCode(int code) {
#ifdef _WIN32
  ::WSASetLastError(code);
#else
  errno = code;
#endif
}

SOCKADDR_IN SocketAddress(const iocp::Address& address) {
  SOCKADDR_IN in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(address.port);
  if (address.family == iocp::Address::Family::kIPv4) {
    std::memcpy(&in.sin_addr, address.bytes, sizeof(in.sin_addr));
  }
  return in;
}

SOCKET NumberOf(std::uint64_t id) {
  // Above every handle that a system gives out, and within an int.
  constexpr std::uint64_t kBase = 0x40000000;
  return static_cast<SOCKET>(kBase + id % kBase);
}

}  // namespace

// Turns the engine's hooks into the original's. Calls them, and touches records, on the workers.
class CIOCPServer::Forwarder final : public iocp::Handler {
 public:
  explicit Forwarder(CIOCPServer& owner) : owner_(owner) {}

  iocp::Server& server() { return server_; }

  // Nothing was reported before the first data: a connection begins with it.
  void OnReadCompleted(iocp::Connection& connection, iocp::Buffer& buffer) override {
    auto* record = static_cast<Record*>(connection.user_data);
    const bool first = record == nullptr;
    if (first) record = &Establish(connection);
    // Options::buffer_size is BUFFER_SIZE: it fits.
    HookBuffer piece;
    piece.Fill(buffer.view(), first ? OP_ACCEPT : OP_READ);
    if (first) {
      owner_.OnConnectionEstablished(record, &piece);
    } else {
      piece.nSequenceNumber = record->reads++;
      owner_.OnReadCompleted(record, &piece);
    }
  }

  void OnWriteCompleted(iocp::Connection& connection, std::size_t size) override {
    auto& record = *static_cast<Record*>(connection.user_data);
    Memory* sent = nullptr;
    {
      const Entered lock(record.Lock);
      sent = record.first_sending;
      record.first_sending = static_cast<Memory*>(sent->pNext);
    }
    --record.nOutstandingSend;
    sent->pNext = nullptr;
    sent->nLen = static_cast<int>(size);
    sent->owner = Memory::Owner::kHook;
    // A hook may throw.
    const std::unique_ptr<Memory, void (*)(Memory*)> reporting(sent, &EndReport);
    owner_.OnWriteCompleted(&record, sent);
  }

  void OnConnectionError(iocp::Connection& connection, iocp::Error error) override {
    auto* const record = static_cast<Record*>(connection.user_data);
    if (record == nullptr) return;
    record->bClosing = TRUE;
    HookBuffer buffer;
    owner_.NotifyConnectionError(record, &buffer, CodeOf(error, WSAECONNRESET));
  }

  void OnConnectionClosing(iocp::Connection& connection, iocp::CloseReason /*reason*/) override {
    auto* const record = static_cast<Record*>(connection.user_data);
    if (record == nullptr) return;
    record->bClosing = TRUE;
    HookBuffer buffer;
    owner_.NotifyConnectionClosing(record, &buffer);
  }

  void OnConnectionReleased(iocp::Connection& connection) override {
    Retire(*static_cast<Record*>(std::exchange(connection.user_data, nullptr)));
  }

  void OnStopped() override { owner_.m_bServerStarted = FALSE; }

 private:
  // Dead handles that are kept before the oldest of them becomes another connection.
  static constexpr std::size_t kQuarantine = 1024;

  // Under m_ConnectionListLock.
  Record& TakeRecord() {
    if (dead_ <= kQuarantine) return *records_.emplace_back(std::make_unique<Record>());
    --dead_;
    return *std::exchange(first_dead_, first_dead_->next_dead);
  }

  Record& Establish(iocp::Connection& connection) {
    const Entered list_lock(owner_.m_ConnectionListLock);
    Record& record = TakeRecord();
    {
      const Entered lock(record.Lock);
      record.s = NumberOf(connection.id());
      record.addrLocal = SocketAddress(connection.local_address());
      record.addrRemote = SocketAddress(connection.remote_address());
      record.reads = 0;
      record.nOutstandingSend = 0;
      record.bClosing = FALSE;
      record.bNotifyCloseOrError = false;
      record.connection = iocp::ConnectionPtr(&connection);
    }
    connection.user_data = &record;
    record.previous = nullptr;
    record.pNext = owner_.m_pConnectionList;
    if (record.pNext != nullptr) Record::Of(*record.pNext).previous = &record;
    owner_.m_pConnectionList = &record;
    ++owner_.m_nCurrentConnection;
    return record;
  }

  void Retire(Record& record) {
    iocp::ConnectionPtr connection;
    Memory* dropped = nullptr;
    {
      const Entered lock(record.Lock);
      std::swap(connection, record.connection);
      dropped = std::exchange(record.first_sending, nullptr);
      record.nOutstandingSend = 0;
    }
    while (dropped != nullptr) {
      EndReport(std::exchange(dropped, static_cast<Memory*>(dropped->pNext)));
    }
    const Entered list_lock(owner_.m_ConnectionListLock);
    CIOCPContext*& from_previous =
        record.previous != nullptr ? record.previous->pNext : owner_.m_pConnectionList;
    from_previous = record.pNext;
    if (record.pNext != nullptr) Record::Of(*record.pNext).previous = record.previous;
    --owner_.m_nCurrentConnection;
    record.pNext = nullptr;
    record.next_dead = nullptr;
    (first_dead_ == nullptr ? first_dead_ : last_dead_->next_dead) = &record;
    last_dead_ = &record;
    ++dead_;
  }

  CIOCPServer& owner_;
  // Under m_ConnectionListLock. No record is freed before this is, so that a pointer to one that is
  // dead can still be asked.
  std::vector<std::unique_ptr<Record>> records_;
  Record* first_dead_ = nullptr;  // the one that is dead the longest
  Record* last_dead_ = nullptr;
  std::size_t dead_ = 0;
  iocp::Server server_{*this};
};

CIOCPServer::CIOCPServer() : forwarder_(std::make_unique<Forwarder>(*this)) {
#ifdef _WIN32
  // A subclass may use Winsock from its constructor on.
  WSADATA data;
  static_cast<void>(::WSAStartup(MAKEWORD(2, 2), &data));
#endif
  ::InitializeCriticalSection(&m_ConnectionListLock);
}

CIOCPServer::~CIOCPServer() {
  Shutdown();
  forwarder_.reset();
  ::DeleteCriticalSection(&m_ConnectionListLock);
#ifdef _WIN32
  ::WSACleanup();
#endif
}

BOOL CIOCPServer::Start(int port, int max_connections, int max_free_buffers, int max_free_contexts,
                        int initial_reads) {
  if (forwarder_->server().running()) {
    LeaveErrorCode(WSAEALREADY);
    return FALSE;
  }
  // The last steps of a run that a hook has shut down.
  forwarder_->server().Shutdown();

  m_nPort = port;
  m_nMaxConnections = max_connections;
  m_nMaxFreeBuffers = max_free_buffers;
  m_nMaxFreeContexts = max_free_contexts;
  m_nInitialReads = initial_reads;

  constexpr int kMostReads = 64;  // the engine's limits, where more was harmless
  constexpr int kMostSends = 1 << 20;
  iocp::Options options;
  options.host = "0.0.0.0";
  options.port = port;
  options.workers = MAX_THREAD;
  options.max_connections = max_connections;
  options.listen_backlog = 200;
  options.initial_accepts = m_nInitialAccepts;
  options.max_accepts = std::max(m_nMaxAccepts, m_nInitialAccepts);
  options.initial_reads = std::min(initial_reads, kMostReads);
  options.max_free_buffers = max_free_buffers;
  options.max_free_contexts = max_free_contexts;
  // In bytes and not by number: a send is with the system at the end of the worker's turn, so an
  // echo of many small messages that came together would meet a number without fault of its own.
  options.send_backlog_limit =
      static_cast<std::size_t>(std::clamp(m_nMaxSends, 1, kMostSends)) * BUFFER_SIZE;
  options.write_high_water = std::min(options.write_high_water, options.send_backlog_limit / 2);
  options.write_low_water = std::min(options.write_low_water, options.write_high_water / 4);
  AdjustOptions(options);
  options.established_on = iocp::EstablishedOn::kFirstData;
  options.buffer_size = BUFFER_SIZE;

  m_bShutDown = FALSE;
  m_bServerStarted = TRUE;
  const iocp::Status status = forwarder_->server().Start(options);
  if (!status.ok()) {
    m_bServerStarted = FALSE;
    LeaveErrorCode(CodeOf(status.error, WSAEINVAL));
    return FALSE;
  }
  // Only when it is another: hooks may be reading it.
  const int bound = forwarder_->server().address().port;
  if (m_nPort != bound) m_nPort = bound;
  return TRUE;
}

void CIOCPServer::Shutdown() {
  if (forwarder_->server().running()) m_bShutDown = TRUE;
  forwarder_->server().Shutdown();
}

void CIOCPServer::CloseAConnection(CIOCPContext* context) {
  if (context == nullptr) return;
  Record& record = Record::Of(*context);
  const Entered lock(record.Lock);
  if (!record.connection) return;
  record.bClosing = TRUE;
  record.connection->Close();
}

void CIOCPServer::CloseAllConnections() {
  const Entered list_lock(m_ConnectionListLock);
  for (CIOCPContext* context = m_pConnectionList; context != nullptr; context = context->pNext) {
    CloseAConnection(context);
  }
}

ULONG CIOCPServer::GetCurrentConnection() {
  const Entered list_lock(m_ConnectionListLock);
  return static_cast<ULONG>(m_nCurrentConnection);
}

BOOL CIOCPServer::SendText(CIOCPContext* context, const char* text, int length) {
  if (context == nullptr || length < 0 || (text == nullptr && length > 0)) return FALSE;
  const auto size = static_cast<std::size_t>(length);
  Memory* const memory = Memory::New(size);
  if (memory == nullptr) return FALSE;
  if (size > 0) std::memcpy(memory->buff, text, size);
  memory->nLen = length;
  if (PostSend(context, memory) != FALSE) return TRUE;
  Memory::Delete(memory);
  return FALSE;
}

CIOCPBuffer* CIOCPServer::AllocateBuffer(int length) {
  if (length < 0) return nullptr;
  const auto size = std::max<std::size_t>(static_cast<std::size_t>(length), BUFFER_SIZE);
  Memory* const memory = Memory::New(size);
  if (memory == nullptr) return nullptr;
  std::memset(memory->buff, 0, size);
  memory->nLen = length;
  return memory;
}

void CIOCPServer::ReleaseBuffer(CIOCPBuffer* buffer) {
  if (buffer == nullptr || Memory::Of(*buffer).owner != Memory::Owner::kCaller) return;
  Memory::Delete(&Memory::Of(*buffer));
}

BOOL CIOCPServer::PostSend(CIOCPContext* context, CIOCPBuffer* buffer) {
  if (context == nullptr || buffer == nullptr || buffer->nLen < 0) return FALSE;
  Memory& memory = Memory::Of(*buffer);
  if (memory.owner == Memory::Owner::kHook) return SendText(context, buffer->buff, buffer->nLen);
  if (memory.owner == Memory::Owner::kServer) return FALSE;
  Record& record = Record::Of(*context);
  // Over both steps: the order of the list is that of the stream, and the completion finds it.
  const Entered lock(record.Lock);
  if (!record.connection) return FALSE;
  memory.owner = Memory::Owner::kServer;
  memory.nOperation = OP_WRITE;
  memory.pNext = nullptr;
  memory.record = &record;
  auto result = iocp::SendResult::kBacklogFull;
  try {
    result = record.connection->Send(
        iocp::SharedBytes{memory.buff, static_cast<std::size_t>(memory.nLen), &Release, &memory});
  } catch (const std::bad_alloc&) {
    // There is no room for it, in another sense.
  }
  if (result != iocp::SendResult::kAccepted) {
    memory.owner = Memory::Owner::kCaller;
    if (result == iocp::SendResult::kClosed) record.bClosing = TRUE;
    return FALSE;
  }
  if (record.first_sending == nullptr) {
    record.first_sending = &memory;
  } else {
    record.last_sending->pNext = &memory;
  }
  record.last_sending = &memory;
  ++record.nOutstandingSend;
  return TRUE;
}

void CIOCPServer::NotifyConnectionClosing(CIOCPContext* context, CIOCPBuffer* buffer) {
  if (context != nullptr && !context->bNotifyCloseOrError.exchange(true))
    OnConnectionClosing(context, buffer);
}

void CIOCPServer::NotifyConnectionError(CIOCPContext* context, CIOCPBuffer* buffer, int error) {
  if (context != nullptr && !context->bNotifyCloseOrError.exchange(true))
    OnConnectionError(context, buffer, error);
}
