// TLS against a client of OpenSSL, with faults on the wire: by seeds, and by what fuzzing has
// found.
#include "tls_differential.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace iocp::testing {
namespace {

TEST(TlsDifferentialTest, Seeds) {
  std::size_t connected = 0;
  std::size_t refused = 0;
  std::size_t delivered = 0;
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    sim::Choices choices(seed);
    const TlsDifferential result = CompareTls(choices);
    ASSERT_EQ(result.failure, "") << "seed " << seed;
    connected += result.connected ? 1 : 0;
    refused += result.refused ? 1 : 0;
    delivered += result.delivered;
  }
  EXPECT_GT(connected, 60U);
  EXPECT_GT(refused, 60U);
  EXPECT_GT(delivered, 20'000U);
}

TEST(TlsDifferentialTest, Corpus) {
  std::size_t files = 0;
  std::size_t connected = 0;
  for (const auto& entry : std::filesystem::directory_iterator(IOCP_TLS_CORPUS)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    sim::Choices choices(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    const TlsDifferential result = CompareTls(choices);
    EXPECT_EQ(result.failure, "") << entry.path();
    connected += result.connected ? 1 : 0;
    ++files;
  }
  EXPECT_GE(files, 10U);
  EXPECT_GE(connected, 5U) << "the corpus no longer drives what it was made for";
}

}  // namespace
}  // namespace iocp::testing
