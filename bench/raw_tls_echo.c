// raw_tls_echo: the bare loop with TLS that everything else with TLS is compared with.
//
// raw_epoll_echo with OpenSSL: level-triggered, one thread, an SSL object for each connection. What
// a readiness brings is read with one recv and decrypted whole; what was made of it goes out with
// one send. Memory BIOs of its own let OpenSSL do no system call. Buffers that are not in use are
// given back. It does nothing that a real server needs beyond that (no limits, no time-outs, no
// callbacks), but it is correct: what a short send leaves is kept and sent before anything more is
// read, and a stream of TLS ends with a close_notify.
//
//   raw_tls_echo --tls FILE [--port N] [--seconds N]
//
// FILE has a certificate and its key. Prints "listening PORT"; ends at SIGTERM, SIGINT or after
// --seconds.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  kMaxEvents = 1024,
  kBufferSize = 64 * 1024,
  kRecord = 16 * 1024,
  // For all that a full buffer becomes: plain bytes, and the bytes that TLS adds to each record,
  // however small.
  kOutSize = 4 * kBufferSize,
  kBacklog = 1024
};

struct Connection {
  int fd;
  SSL* ssl;
  char* rest;  // of a short send; allocated only while there is some
  size_t rest_size;
  size_t rest_sent;
};

static char wire[kBufferSize];  // received
static size_t wire_size, wire_read;
static char out[kOutSize];  // to send
static size_t out_size;
static char plain[kRecord];
static SSL_CTX* context;
static BIO_METHOD* method;

static void Die(const char* step) {
  fprintf(stderr, "raw_tls_echo: %s: %s\n", step, strerror(errno));
  exit(1);
}

static void DieOfTls(const char* step) {
  const char* reason = ERR_reason_error_string(ERR_peek_error());
  fprintf(stderr, "raw_tls_echo: %s: %s\n", step, reason == NULL ? "no reason" : reason);
  exit(1);
}

static void OnSignal(int signal_number) {
  (void)signal_number;
  _exit(0);
}

static int ReadWire(BIO* bio, char* to, int size) {
  BIO_clear_retry_flags(bio);
  size_t taken = wire_size - wire_read;
  if (taken > (size_t)size) taken = (size_t)size;
  if (taken == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  memcpy(to, wire + wire_read, taken);
  wire_read += taken;
  return (int)taken;
}

static int WriteWire(BIO* bio, const char* from, int size) {
  (void)bio;
  if ((size_t)size > sizeof out - out_size) return -1;
  memcpy(out + out_size, from, (size_t)size);
  out_size += (size_t)size;
  return size;
}

static long Control(BIO* bio, int command, long number, void* pointer) {
  (void)bio, (void)number, (void)pointer;
  return command == BIO_CTRL_FLUSH;
}

static void Drop(struct Connection* connection) {
  SSL_free(connection->ssl);
  close(connection->fd);
  free(connection->rest);
  free(connection);
}

static void Watch(int epoll_fd, struct Connection* connection, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = connection};
  if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event) != 0) Die("epoll_ctl");
}

static void AcceptAll(int epoll_fd, int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN) return;
      if (errno == EINTR || errno == ECONNABORTED) continue;
      Die("accept4");
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct Connection* connection = calloc(1, sizeof *connection);
    if (connection == NULL) Die("calloc");
    connection->fd = fd;
    connection->ssl = SSL_new(context);
    BIO* bio = BIO_new(method);
    if (connection->ssl == NULL || bio == NULL) DieOfTls("SSL_new");
    BIO_set_init(bio, 1);
    SSL_set_bio(connection->ssl, bio, bio);
    SSL_set_accept_state(connection->ssl);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) Die("epoll_ctl");
  }
}

// Echoes all that is in `wire` into `out`. Returns 0 when the connection is over.
static int EchoWire(SSL* ssl) {
  for (;;) {
    int got = SSL_read(ssl, plain, sizeof plain);
    if (got > 0) {
      if (SSL_write(ssl, plain, got) != got) return 0;
      continue;
    }
    int error = SSL_get_error(ssl, got);
    if (error == SSL_ERROR_WANT_READ) return 1;
    if (error == SSL_ERROR_ZERO_RETURN) {
      SSL_shutdown(ssl);
    } else {
      ERR_clear_error();
    }
    return 0;
  }
}

static void OnReadable(int epoll_fd, struct Connection* connection) {
  ssize_t received = recv(connection->fd, wire, sizeof wire, 0);
  if (received <= 0) {
    if (received == 0 || (errno != EAGAIN && errno != EINTR)) Drop(connection);
    return;
  }
  wire_size = (size_t)received;
  wire_read = 0;
  out_size = 0;
  int goes_on = EchoWire(connection->ssl);
  ssize_t sent = out_size == 0 ? 0 : send(connection->fd, out, out_size, MSG_NOSIGNAL);
  if (!goes_on) {
    Drop(connection);
    return;
  }
  if (sent == (ssize_t)out_size) return;
  if (sent < 0) {
    if (errno != EAGAIN && errno != EINTR) {
      Drop(connection);
      return;
    }
    sent = 0;
  }
  connection->rest_size = out_size - (size_t)sent;
  connection->rest_sent = 0;
  connection->rest = malloc(connection->rest_size);
  if (connection->rest == NULL) Die("malloc");
  memcpy(connection->rest, out + sent, connection->rest_size);
  Watch(epoll_fd, connection, EPOLLOUT);
}

static void OnWritable(int epoll_fd, struct Connection* connection) {
  ssize_t sent = send(connection->fd, connection->rest + connection->rest_sent,
                      connection->rest_size - connection->rest_sent, MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno != EAGAIN && errno != EINTR) Drop(connection);
    return;
  }
  connection->rest_sent += (size_t)sent;
  if (connection->rest_sent < connection->rest_size) return;
  free(connection->rest);
  connection->rest = NULL;
  Watch(epoll_fd, connection, EPOLLIN);
}

static void PrepareTls(const char* file) {
  context = SSL_CTX_new(TLS_server_method());
  method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "raw");
  if (context == NULL || method == NULL) DieOfTls("SSL_CTX_new");
  BIO_meth_set_read(method, ReadWire);
  BIO_meth_set_write(method, WriteWire);
  BIO_meth_set_ctrl(method, Control);
  if (SSL_CTX_use_certificate_chain_file(context, file) != 1 ||
      SSL_CTX_use_PrivateKey_file(context, file, SSL_FILETYPE_PEM) != 1) {
    DieOfTls(file);
  }
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 1);
}

// The value of a numeric option, or exit with a sentence.
static long Number(const char* option, const char* text, long max) {
  char* end = NULL;
  long value = text == NULL ? -1 : strtol(text, &end, 10);
  if (text == NULL || *text == '\0' || *end != '\0' || value < 0 || value > max) {
    fprintf(stderr, "raw_tls_echo: %s needs a number from 0 to %ld\n", option, max);
    exit(2);
  }
  return value;
}

static int Listen(long port, struct sockaddr_in* address) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) Die("socket");
  int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  *address = (struct sockaddr_in){.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (struct sockaddr*)address, sizeof *address) != 0) Die("bind");
  if (listen(listener, kBacklog) != 0) Die("listen");
  socklen_t size = sizeof *address;
  if (getsockname(listener, (struct sockaddr*)address, &size) != 0) Die("getsockname");
  return listener;
}

static _Noreturn void Serve(int epoll_fd, int listener) {
  static struct epoll_event events[kMaxEvents];
  for (;;) {
    int count = epoll_wait(epoll_fd, events, kMaxEvents, -1);
    if (count < 0) {
      if (errno == EINTR) continue;
      Die("epoll_wait");
    }
    for (int i = 0; i < count; ++i) {
      struct Connection* connection = events[i].data.ptr;
      if (connection == NULL) {
        AcceptAll(epoll_fd, listener);
      } else if (connection->rest != NULL) {
        OnWritable(epoll_fd, connection);
      } else {
        OnReadable(epoll_fd, connection);
      }
    }
  }
}

int main(int argc, char** argv) {
  long port = 0;
  long seconds = 0;
  const char* file = NULL;
  for (int i = 1; i < argc; i += 2) {
    if (strcmp(argv[i], "--port") == 0) {
      port = Number(argv[i], argv[i + 1], 65535);
    } else if (strcmp(argv[i], "--seconds") == 0) {
      seconds = Number(argv[i], argv[i + 1], 86400);
    } else if (strcmp(argv[i], "--tls") == 0 && argv[i + 1] != NULL) {
      file = argv[i + 1];
    } else {
      file = NULL;
      break;
    }
  }
  if (file == NULL) {
    fprintf(stderr, "usage: raw_tls_echo --tls FILE [--port N] [--seconds N]\n");
    return 2;
  }
  signal(SIGTERM, OnSignal);
  signal(SIGINT, OnSignal);
  signal(SIGALRM, OnSignal);
  if (seconds > 0) alarm((unsigned)seconds);

  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  PrepareTls(file);

  struct sockaddr_in address;
  int listener = Listen(port, &address);
  int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) Die("epoll_create1");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};  // NULL is the listener
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) != 0) Die("epoll_ctl");

  printf("listening %d\n", (int)ntohs(address.sin_port));
  fflush(stdout);
  Serve(epoll_fd, listener);
}
