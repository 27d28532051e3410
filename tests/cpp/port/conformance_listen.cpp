// The conformance suite on the ports of this system; R11, and listening.
#include "loopback.h"

namespace iocp::testing {
namespace {

std::vector<WorldParam> LoopbackWorlds() {
  std::vector<WorldParam> worlds;
  const PortKinds kinds = BuiltInPortKinds();
  for (std::size_t i = 0; i < kinds.count; ++i) {
    const PortKind* kind = kinds.first[i];
    const std::vector<int> all_reads = InitialReads();
    for (const int reads : all_reads) {
      const std::string suffix = all_reads.size() == 1 ? "" : "_" + std::to_string(reads);
      worlds.push_back({kind->name + suffix, [kind, reads]() -> std::unique_ptr<World> {
                          return std::make_unique<LoopbackWorld>(*kind, IsRequired(*kind), reads);
                        }});
    }
  }
  return worlds;
}

INSTANTIATE_TEST_SUITE_P(Loopback, ConformanceTest, ::testing::ValuesIn(LoopbackWorlds()),
                         [](const ::testing::TestParamInfo<WorldParam>& param) {
                           return param.param.name;
                         });

// R11 ------------------------------------------------------------------------------------------

TEST(PortKindsTest, R11_EveryKindSaysWhetherItIsAvailableAndWhyNot) {
  const PortKinds kinds = BuiltInPortKinds();
  ASSERT_GT(kinds.count, 0U);
  for (std::size_t i = 0; i < kinds.count; ++i) {
    const PortKind& kind = *kinds.first[i];
    const std::string why = kind.why_unavailable();
    EXPECT_EQ(kind.why_unavailable(), why) << "it says something else each time";
    if (IsRequired(kind)) {
      EXPECT_EQ(why, "") << kind.name << " has to work on this system";
    }
    if (!why.empty()) {
      EXPECT_GT(why.size(), 30U) << "no reason a user could act on: " << why;
    }
    BufferPool* pool = BufferPool::Create(4096, 10);
    PortOptions options;
    options.pool = pool;
    EXPECT_EQ(static_cast<bool>(kind.create(options)->Open()), !why.empty()) << kind.name;
    pool->Close();
  }
  // The last resort of each system.
  EXPECT_TRUE(IsRequired(*kinds.first[kinds.count - 1]));
}

TEST(PortKindsTest, R11_EveryAbsentBackendHasItsReason) {
  const PortKinds kinds = BuiltInPortKinds();
  for (const BackendInfo& absent : AbsentBackends()) {
    EXPECT_FALSE(absent.available) << absent.name;
    EXPECT_GT(absent.reason.size(), 15U) << absent.name;
    for (std::size_t i = 0; i < kinds.count; ++i) EXPECT_NE(absent.name, kinds.first[i]->name);
  }
}

// Listening ------------------------------------------------------------------------------------

TEST_P(ConformanceTest, ListenOnPortZeroTellsThePortThatTheSystemChose) {
  PortDriver driver(world());
  EXPECT_NE(driver.bound().port, 0);
  EXPECT_EQ(driver.bound().Host(), "127.0.0.1");
  ServerEnd& end = driver.Connect();
  EXPECT_EQ(end.local.port, driver.bound().port);
  EXPECT_EQ(end.local.Host(), "127.0.0.1");
  EXPECT_EQ(end.remote.port, end.peer->port());
  EXPECT_EQ(end.remote.Host(), "127.0.0.1");
}

TEST_P(ConformanceTest, ListenOnAPortInUseFails) {
  PortDriver driver(world());
  ListenOptions options;
  options.host = "127.0.0.1";
  options.port = driver.bound().port;
  ExpectListenFailure(world(), options, ErrorKind::kAddressInUse, kCodeAddressInUse, "bind",
                      "127.0.0.1:" + std::to_string(options.port));
}

TEST_P(ConformanceTest, ListenAgainAtOnceWhereAServerHasJustStopped) {
  ListenOptions options;
  {
    PortDriver driver(world());
    options.port = driver.bound().port;
    ServerEnd& end = driver.Connect();
    // The one that closes first is left in TIME_WAIT.
    driver.Cancel(end);
    ASSERT_TRUE(driver.Until([&] { return end.Idle(); }));
    driver.Close(end, false);
  }
  options.host = "127.0.0.1";
  NativeSocket listener = kNoSocket;
  Address bound;
  const Status status = world().kind().listen(options, &listener, &bound);
  ASSERT_TRUE(status.ok()) << status.message;
  EXPECT_EQ(bound.port, options.port);
  world().kind().close_listener(listener);
}

TEST_P(ConformanceTest, ListenOnAHostThatDoesNotResolveFails) {
  ListenOptions options;
  options.host = "no host has blanks";
  options.port = 4567;
  ExpectListenFailure(world(), options, ErrorKind::kAddressUnavailable, 0, "resolve",
                      "no host has blanks:4567");
}

TEST_P(ConformanceTest, ListenOnAnAddressOfAnotherMachineFails) {
  ListenOptions options;
  options.host = "192.0.2.1";  // kept free for documentation
  options.port = 4567;
  ExpectListenFailure(world(), options, ErrorKind::kAddressUnavailable, kCodeAddressUnavailable,
                      "bind", "192.0.2.1:4567");
}

TEST_P(ConformanceTest, ListenOnIPv6) {
  if (!world().has_ipv6()) GTEST_SKIP() << "this system has no IPv6";
  DriverOptions options;
  options.host = "::1";
  PortDriver driver(world(), options);
  EXPECT_EQ(driver.bound().Host(), "::1");
  ServerEnd& end = driver.Connect();
  EXPECT_EQ(end.remote.Host(), "::1");
  EXPECT_EQ(end.remote.family, Address::Family::kIPv6);
  end.peer_writing = "six";
  EXPECT_TRUE(driver.Until([&] { return end.received == "six"; }));
  ListenOptions taken;
  taken.host = "::1";
  taken.port = driver.bound().port;
  ExpectListenFailure(world(), taken, ErrorKind::kAddressInUse, kCodeAddressInUse, "bind",
                      "[::1]:" + std::to_string(taken.port));
}

TEST_P(ConformanceTest, ListenOnAllOfBothFamilies) {
  if (!world().has_ipv6()) GTEST_SKIP() << "this system has no IPv6";
  for (const char* host : {"::", "::0", "0::0", "0:0:0:0:0:0:0:0"}) {
    DriverOptions options;
    options.host = host;
    PortDriver driver(world(), options);
    ServerEnd* four =
        driver.Meet(world().Connect(Loopback(Address::Family::kIPv4, driver.bound().port)));
    ServerEnd* six =
        driver.Meet(world().Connect(Loopback(Address::Family::kIPv6, driver.bound().port)));
    ASSERT_NE(four, nullptr) << host;
    ASSERT_NE(six, nullptr) << host;
    EXPECT_EQ(four->remote.family, Address::Family::kIPv4);
    EXPECT_EQ(four->remote.Host(), "127.0.0.1");
    EXPECT_EQ(four->local.Host(), "127.0.0.1");
    EXPECT_EQ(six->remote.Host(), "::1");
  }
}

TEST_P(ConformanceTest, ListenOnAllOfIPv6Only) {
  if (!world().has_ipv6()) GTEST_SKIP() << "this system has no IPv6";
  DriverOptions options;
  options.host = "::";
  options.dual_stack = false;
  PortDriver driver(world(), options);
  EXPECT_EQ(world().Connect(Loopback(Address::Family::kIPv4, driver.bound().port)), nullptr);
  EXPECT_NE(driver.Meet(world().Connect(Loopback(Address::Family::kIPv6, driver.bound().port))),
            nullptr);
}

TEST_P(ConformanceTest, ListenOnAllOfIPv4) {
  for (const char* host : {"", "0.0.0.0"}) {
    DriverOptions options;
    options.host = host;
    PortDriver driver(world(), options);
    EXPECT_EQ(driver.bound().Host(), "0.0.0.0");
    ServerEnd* end =
        driver.Meet(world().Connect(Loopback(Address::Family::kIPv4, driver.bound().port)));
    ASSERT_NE(end, nullptr);
    EXPECT_EQ(end->local.Host(), "127.0.0.1");
  }
}

}  // namespace
}  // namespace iocp::testing
