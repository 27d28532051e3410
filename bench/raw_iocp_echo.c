// raw_iocp_echo: the plain completion port loop that servers on Windows are compared with.
//
// The classic design: two threads wait on one port, each takes one packet at a time; AcceptEx is
// posted ahead, and a connection has one operation with the system, a receive or a send. It does
// nothing that a real server needs beyond that (no limits, no time-outs, no callbacks), but it is
// correct: a short send is continued, and a connection is freed when its last operation has ended,
// which is the one that there is.
//
//   raw_iocp_echo [--port N]
//
// Prints "listening PORT"; ends when its standard input ends.
#include <winsock2.h>
// In this order.
#include <mswsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <ws2tcpip.h>

enum { kThreads = 2, kAccepts = 64, kBufferSize = 64 * 1024, kBacklog = 1024 };
// AcceptEx wants 16 bytes beside each address.
enum { kAddressRoom = sizeof(SOCKADDR_STORAGE) + 16 };

enum Step { kAccepting, kReceiving, kSending };

// A connection, from the accept that is to bring it. The thread that has its packet has it alone.
struct Connection {
  OVERLAPPED overlapped;
  SOCKET socket;
  enum Step step;
  DWORD size;  // received, and to be sent
  DWORD sent;
  char buffer[kBufferSize];
};

static SOCKET listener;
static HANDLE port;
static LPFN_ACCEPTEX accept_ex;

static void Die(const char* step, DWORD error) {
  fprintf(stderr, "raw_iocp_echo: %s: error %lu\n", step, error);
  exit(1);
}

static void Drop(struct Connection* connection) {
  closesocket(connection->socket);
  free(connection);
}

// Returns whether a packet follows an overlapped call that returned `result`.
static BOOL Started(BOOL result) { return result || WSAGetLastError() == WSA_IO_PENDING; }

static void Accept(void) {
  struct Connection* connection;
  do {
    connection = calloc(1, sizeof *connection);
    if (connection == NULL) Die("calloc", ERROR_NOT_ENOUGH_MEMORY);
    connection->step = kAccepting;
    connection->socket =
        WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (connection->socket == INVALID_SOCKET) Die("socket", (DWORD)WSAGetLastError());
    DWORD ignored = 0;
    if (Started(accept_ex(listener, connection->socket, connection->buffer, 0, kAddressRoom,
                          kAddressRoom, &ignored, &connection->overlapped))) {
      return;
    }
    if (WSAGetLastError() != WSAECONNRESET) Die("AcceptEx", (DWORD)WSAGetLastError());
    Drop(connection);  // the client that was next has gone
  } while (TRUE);
}

static void Receive(struct Connection* connection) {
  connection->step = kReceiving;
  WSABUF all = {kBufferSize, connection->buffer};
  DWORD flags = 0;
  memset(&connection->overlapped, 0, sizeof connection->overlapped);
  if (!Started(WSARecv(connection->socket, &all, 1, NULL, &flags, &connection->overlapped, NULL) ==
               0)) {
    Drop(connection);
  }
}

static void Send(struct Connection* connection) {
  connection->step = kSending;
  WSABUF rest = {connection->size - connection->sent, connection->buffer + connection->sent};
  memset(&connection->overlapped, 0, sizeof connection->overlapped);
  if (!Started(WSASend(connection->socket, &rest, 1, NULL, 0, &connection->overlapped, NULL) ==
               0)) {
    Drop(connection);
  }
}

static void OnAccepted(struct Connection* connection) {
  const BOOL on = TRUE;
  if (setsockopt(connection->socket, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (const char*)&listener,
                 sizeof listener) != 0 ||
      setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, (const char*)&on, sizeof on) != 0 ||
      CreateIoCompletionPort((HANDLE)connection->socket, port, 0, 0) == NULL) {
    Drop(connection);
    return;
  }
  Receive(connection);
}

static void OnPacket(struct Connection* connection, BOOL good, DWORD bytes) {
  if (connection->step == kAccepting) Accept();  // the next, in its place
  if (!good) {
    Drop(connection);
    return;
  }
  switch (connection->step) {
    case kAccepting:
      OnAccepted(connection);
      return;
    case kReceiving:
      connection->size = bytes;
      connection->sent = 0;
      if (bytes == 0) {
        Drop(connection);
      } else {
        Send(connection);
      }
      return;
    case kSending:
      connection->sent += bytes;
      if (connection->sent == connection->size) {
        Receive(connection);
      } else {
        Send(connection);
      }
      return;
  }
}

static DWORD WINAPI Work(void* unused) {
  (void)unused;
  DWORD bytes = 0;
  ULONG_PTR key = 0;
  OVERLAPPED* overlapped = NULL;
  for (;;) {
    const BOOL good = GetQueuedCompletionStatus(port, &bytes, &key, &overlapped, INFINITE);
    if (overlapped == NULL) break;
    OnPacket(CONTAINING_RECORD(overlapped, struct Connection, overlapped), good, bytes);
  }
  Die("GetQueuedCompletionStatus", GetLastError());
  return 1;
}

int main(int argc, char** argv) {
  char* end = NULL;
  const long number = argc == 3 ? strtol(argv[2], &end, 10) : 0;
  if (argc != 1 && (argc != 3 || strcmp(argv[1], "--port") != 0 || end == argv[2] || *end != '\0' ||
                    number < 0 || number > 65535)) {
    fprintf(stderr, "usage: raw_iocp_echo [--port N]\n");
    return 2;
  }
  WSADATA data;
  const int code = WSAStartup(MAKEWORD(2, 2), &data);
  if (code != 0) Die("WSAStartup", (DWORD)code);

  listener = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
  if (listener == INVALID_SOCKET) Die("socket", (DWORD)WSAGetLastError());
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons((u_short)number),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int size = sizeof address;
  if (bind(listener, (struct sockaddr*)&address, size) != 0 || listen(listener, kBacklog) != 0 ||
      getsockname(listener, (struct sockaddr*)&address, &size) != 0) {
    Die("listen", (DWORD)WSAGetLastError());
  }
  GUID id = WSAID_ACCEPTEX;
  DWORD ignored = 0;
  if (WSAIoctl(listener, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, &accept_ex,
               sizeof accept_ex, &ignored, NULL, NULL) != 0) {
    Die("WSAIoctl", (DWORD)WSAGetLastError());
  }
  port = CreateIoCompletionPort((HANDLE)listener, NULL, 0, 0);
  if (port == NULL) Die("CreateIoCompletionPort", GetLastError());
  for (int i = 0; i < kAccepts; ++i) Accept();
  for (int i = 0; i < kThreads; ++i) {
    if (CreateThread(NULL, 0, &Work, NULL, 0, NULL) == NULL) Die("CreateThread", GetLastError());
  }
  printf("listening %d\n", (int)ntohs(address.sin_port));
  fflush(stdout);
  while (getchar() != EOF) {
  }
  return 0;
}
