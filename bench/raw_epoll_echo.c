// raw_epoll_echo: the bare loop that everything else is compared with.
//
// A plain competent epoll echo in C: level-triggered, one thread, per readiness one recv and one
// send. It does nothing that a real server needs beyond that (no limits, no time-outs, no
// callbacks), but it is correct: what a short send leaves is kept and sent before anything more is
// read.
//
//   raw_epoll_echo [--port N] [--seconds N]
//
// Prints "listening PORT"; ends at SIGTERM, SIGINT or after --seconds.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { kMaxEvents = 1024, kBufferSize = 64 * 1024, kBacklog = 1024 };

// The rest of a short send; allocated only while there is some.
struct Connection {
  int fd;
  char* rest;
  size_t rest_size;
  size_t rest_sent;
};

static char buffer[kBufferSize];

static void Die(const char* step) {
  fprintf(stderr, "raw_epoll_echo: %s: %s\n", step, strerror(errno));
  exit(1);
}

static void OnSignal(int signal_number) {
  (void)signal_number;
  _exit(0);
}

static void Drop(struct Connection* connection) {
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
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) Die("epoll_ctl");
  }
}

static void OnReadable(int epoll_fd, struct Connection* connection) {
  ssize_t received = recv(connection->fd, buffer, sizeof buffer, 0);
  if (received <= 0) {
    if (received == 0 || (errno != EAGAIN && errno != EINTR)) Drop(connection);
    return;
  }
  ssize_t sent = send(connection->fd, buffer, (size_t)received, MSG_NOSIGNAL);
  if (sent == received) return;
  if (sent < 0) {
    if (errno != EAGAIN && errno != EINTR) {
      Drop(connection);
      return;
    }
    sent = 0;
  }
  connection->rest_size = (size_t)(received - sent);
  connection->rest_sent = 0;
  connection->rest = malloc(connection->rest_size);
  if (connection->rest == NULL) Die("malloc");
  memcpy(connection->rest, buffer + sent, connection->rest_size);
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

// The value of a numeric option, or exit with a sentence.
static long Number(const char* option, const char* text, long max) {
  char* end = NULL;
  long value = text == NULL ? -1 : strtol(text, &end, 10);
  if (text == NULL || *text == '\0' || *end != '\0' || value < 0 || value > max) {
    fprintf(stderr, "raw_epoll_echo: %s needs a number from 0 to %ld\n", option, max);
    exit(2);
  }
  return value;
}

int main(int argc, char** argv) {
  long port = 0;
  long seconds = 0;
  for (int i = 1; i < argc; i += 2) {
    if (strcmp(argv[i], "--port") == 0) {
      port = Number(argv[i], argv[i + 1], 65535);
    } else if (strcmp(argv[i], "--seconds") == 0) {
      seconds = Number(argv[i], argv[i + 1], 86400);
    } else {
      fprintf(stderr, "usage: raw_epoll_echo [--port N] [--seconds N]\n");
      return 2;
    }
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

  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) Die("socket");
  int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0) Die("bind");
  if (listen(listener, kBacklog) != 0) Die("listen");
  socklen_t size = sizeof address;
  if (getsockname(listener, (struct sockaddr*)&address, &size) != 0) Die("getsockname");

  int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) Die("epoll_create1");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};  // NULL is the listener
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) != 0) Die("epoll_ctl");

  printf("listening %d\n", (int)ntohs(address.sin_port));
  fflush(stdout);

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
