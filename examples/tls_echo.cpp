// An echo server with TLS: tls_echo CERTIFICATE KEY, both files in PEM format. It prints its port,
// and stops when its input ends.
#include <iocp/iocp.h>

#include <cstdio>

namespace {

class Echo final : public iocp::Handler {
 public:
  void OnReadCompleted(iocp::Connection& connection, iocp::Buffer& buffer) override {
    connection.Send(buffer);
  }
};

int Run(char** argv) {
  Echo echo;
  iocp::Server server(echo);

  iocp::TlsServerOptions tls;
  tls.certificate_file = argv[1];
  tls.key_file = argv[2];
  iocp::Options options;
  options.port = 0;
  options.tls = iocp::Tls::Server(tls);
  const iocp::Status status = server.Start(options);

  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message.c_str());
    return 1;
  }
  std::printf("%d\n", server.address().port);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tls_echo CERTIFICATE KEY\n");
    return 2;
  }
  try {
    return Run(argv);
  } catch (const iocp::TlsError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
