#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "system.h"

namespace bench {
namespace {

int signals = -1;

}  // namespace

bool Prepare() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  // Blocked before the workers start, so that they inherit it and the signals wait in `signals`.
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);
  signals = signalfd(-1, &ending, SFD_CLOEXEC);
  if (signals < 0) std::fprintf(stderr, "server_echo: signalfd: %s\n", std::strerror(errno));
  return signals >= 0;
}

void WaitForEnd() {
  std::array<pollfd, 2> sources = {{{signals, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}}};
  for (;;) {
    if (poll(sources.data(), sources.size(), -1) < 0 && errno != EINTR) return;
    if (sources[0].revents != 0) return;
    if (sources[1].revents != 0) {
      std::array<char, 256> ignored{};
      if (read(STDIN_FILENO, ignored.data(), ignored.size()) <= 0) return;
    }
  }
}

void Hash(const unsigned char* data, std::size_t size) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  if (EVP_Digest(data, size, digest.data(), nullptr, EVP_sha256(), nullptr) != 1) std::abort();
}

}  // namespace bench
