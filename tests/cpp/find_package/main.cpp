// A program that knows of the library only what is installed.
#include <iocp/iocp.h>

#include <cstdio>

class Echo final : public iocp::Handler {
 public:
  void OnReadCompleted(iocp::Connection& connection, iocp::Buffer& buffer) override {
    connection.Send(buffer.data(), buffer.size());
  }
};

int main() {
  Echo echo;
  iocp::Server server(echo);
  iocp::Options options;
  options.port = 0;
  const iocp::Status status = server.Start(options);
  std::printf("%s\n", status.ok() ? server.backend().c_str() : status.message.c_str());
  return status.ok() ? 0 : 1;
}
