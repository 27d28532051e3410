// Counts the bytes that each client sends and answers with their number, once the client has
// finished sending. The answer comes from a thread of its own.
#include <iocp/iocp.h>

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace {

class Upload final : public iocp::Handler {
 public:
  Upload() : thread_([this] { Answer(); }) {}
  ~Upload() override {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  // A hook gets a reference, which is good while it runs. A ConnectionPtr keeps the connection.
  iocp::EndOfStream OnEndOfStream(iocp::Connection& connection) override {
    {
      const std::lock_guard lock(mutex_);
      waiting_.emplace_back(&connection);
    }
    changed_.notify_all();
    return iocp::EndOfStream::kKeepOpen;
  }

 private:
  void Answer() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ended_ || !waiting_.empty(); });
      if (ended_) return;
      const iocp::ConnectionPtr connection = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      const std::string answer = std::to_string(connection->bytes_received()) + "\n";
      connection->Send(answer.data(), answer.size());
      connection->Close();  // whatever became of the answer, or it would stay open
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<iocp::ConnectionPtr> waiting_;
  bool ended_ = false;  // true exactly when no further answer is wanted
  std::thread thread_;
};

}  // namespace

int main() {
  Upload upload;                // before the server, so that it outlives it
  iocp::Server server(upload);  // its destructor shuts down
  iocp::Options options;        // 127.0.0.1, one worker
  options.port = 0;             // the system picks one
  const iocp::Status status = server.Start(options);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message.c_str());
    return 1;
  }
  std::printf("127.0.0.1 %d\n", server.address().port);
  std::fflush(stdout);
  std::getchar();  // until the standard input ends
  return 0;
}
