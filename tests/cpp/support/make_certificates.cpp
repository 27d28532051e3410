// Writes an authority's certificate, and those of a server and a client with their keys, into a
// folder: ca.pem, server.pem, server.key, client.pem, client.key.
#include <cstdio>
#include <filesystem>

#include "support/certificates.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_certificates FOLDER\n");
    return 2;
  }
  const iocp::testing::Certificates certificates;
  for (const char* const name :
       {"ca.pem", "server.pem", "server.key", "client.pem", "client.key"}) {
    std::filesystem::copy(certificates.folder().Path(name), std::filesystem::path(argv[1]) / name);
  }
  return 0;
}
