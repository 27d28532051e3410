// Memory that runs out at each allocation of a connection with TLS, OpenSSL's own included: an
// error, never a crash and never wrong data.
#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "stage/memory_wire.h"
#include "stage/tls/pem.h"
#include "stage/tls_fixture.h"
#include "support/failing_memory.h"

namespace iocp::testing {
namespace {

class TlsMemoryTest : public TlsTest {
 protected:
  // A connection whose server has `count` allocations. True when none of them has failed.
  static bool Converse(const Tls& tls, SSL_CTX* context, long count, bool good) {
    FailingMemory::Forget();
    MixedPair pair(tls, context);
    TlsPeer& peer = *pair.client;
    peer.Send("from the client");
    SendQueue user;
    const std::string answer(40'000, 'a');
    const std::string_view piece = answer;
    user.Push(SendItem::Copy(&piece, 1, nullptr));
    Error error;
    bool updated = false;
    bool ended = false;
    const auto note = [&](const Error& latest) {
      if (!error) error = latest;
    };
    for (int i = 0; i < 20; ++i) {
      peer.Step();
      const std::string wire = std::exchange(pair.wire().to_server, {});
      Buffer received = wire.empty() ? Buffer() : BufferPool::Copy(wire);
      {
        const FailingMemory memory(&count, good);
        StageStack& stack = pair.server.stack();
        if (received.size() != 0) note(stack.Receive(std::move(received), pair.server));
        note(ended ? stack.EndSend(user, pair.server) : stack.Send(user, pair.server));
      }
      pair.wire().to_client += Out(pair.server.stack(), user);
      if (peer.handshake_done() && !std::exchange(updated, true)) {
        SSL_key_update(peer.ssl(), SSL_KEY_UPDATE_REQUESTED);
        peer.Send("and more");
      }
      if (i == 10) peer.EndStream();
      ended = i >= 12;
    }
    // OpenSSL 3.0 may send an alert and not fail itself: the client leaves then.
    if (peer.failure() != 0) note(pair.server.stack().EndReceive(pair.server));
    const std::string got = pair.Received();
    EXPECT_EQ(got, answer.substr(0, got.size()));
    const std::string all = "from the clientand more";
    EXPECT_EQ(pair.server.received, all.substr(0, pair.server.received.size()));
    if (!error) {
      EXPECT_EQ(got.size(), answer.size()) << "an error is hidden";
      EXPECT_EQ(pair.server.received, all);
      EXPECT_EQ(pair.server.ends, 1);
      EXPECT_TRUE(peer.ended_in_order());
    } else {
      EXPECT_TRUE(FailingMemory::failed());
      EXPECT_TRUE(error.kind == ErrorKind::kOutOfResources || error.kind == ErrorKind::kTls ||
                  error.kind == ErrorKind::kTruncated)
          << static_cast<int>(error.kind);
      EXPECT_FALSE(peer.ended_in_order());
    }
    return !FailingMemory::failed();
  }
  static std::string Out(StageStack& stack, SendQueue& user) {
    std::string wire;
    Piece pieces[kMaxPieces];
    while (const std::size_t count = stack.Gather(pieces)) {
      std::size_t size = 0;
      for (std::size_t i = 0; i < count; ++i) {
        wire.append(static_cast<const char*>(pieces[i].data), pieces[i].size);
        size += pieces[i].size;
      }
      SendQueue complete;
      user.Advance(stack.Sent(size, nullptr), complete);
    }
    return wire;
  }
};

TEST_F(TlsMemoryTest, AConnectionEndsWithAnErrorWhereverItRunsOut) {
  ASSERT_TRUE(FailingMemory::replaces());
  const ClientContext context = NewClientContext(certificates.ca_file());
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    SSL_CTX_set_max_proto_version(context.get(), version);
    const Tls tls = Tls::Server(certificates.Server());
    for (const bool good : {false, true}) {
      long count = 0;
      while (!Converse(tls, context.get(), count, good) && !HasFailure()) ++count;
      EXPECT_GT(count, 100) << "there are more allocations than that";
      RecordProperty("allocations", static_cast<int>(count));
    }
  }
}

TEST_F(TlsMemoryTest, ATlsIsMadeOrNot) {
  TlsServerOptions options = certificates.Server();
  options.verify = TlsVerify::kOptional;
  options.ca_file = certificates.ca_file();
  options.alpn = {"a"};
  static_cast<void>(Tls::Server(options));
  long made = 0;
  for (long count = 0; made == 0 && count < 100'000; count += 1 + count / 40) {
    FailingMemory::Forget();
    long rest = count;
    try {
      const FailingMemory memory(&rest, false);
      static_cast<void>(Tls::Server(options));
    } catch (const std::bad_alloc&) {
      continue;
    } catch (const TlsError&) {
      continue;
    }
    if (!FailingMemory::failed()) made = count;
  }
  EXPECT_GT(made, 100);
}

// No other error is blamed, as far as OpenSSL lets it be seen: deep inside it hides such failures.
// A sentence about an error needs memory too, so only OpenSSL's runs out.
TEST_F(TlsMemoryTest, AKeyThatThereIsNoMemoryForIsNotCalledWrong) {
  CertificateOptions secret;
  secret.password = "open sesame";
  certificates.Issue("secret", secret);
  const std::string file = certificates.folder().Path("secret.key");
  static_cast<void>(ReadKey("key_file", file, secret.password));
  for (long count = 0; count < 300; ++count) {
    long rest = count;
    const FailingMemory memory(&rest, true, true);
    EXPECT_THROW(static_cast<void>(ReadKey("key_file", file, secret.password)), std::bad_alloc)
        << "at allocation " << count;
  }
}

}  // namespace
}  // namespace iocp::testing
