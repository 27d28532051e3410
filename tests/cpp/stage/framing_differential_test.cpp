// The cutter against the plain reference: seeds, and what fuzzing has found.
#include "framing_differential.h"

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

TEST(FramingDifferentialTest, Seeds) {
  std::size_t messages = 0;
  for (std::uint64_t seed = 1; seed <= 20'000; ++seed) {
    sim::Choices choices(seed);
    const Differential result = CompareFramings(choices);
    ASSERT_EQ(result.failure, "") << "seed " << seed;
    messages += result.messages;
  }
  EXPECT_GT(messages, 20'000U) << "hardly anything is a message";
}

TEST(FramingDifferentialTest, CorpusOfTheFuzzer) {
  std::size_t files = 0;
  std::size_t messages = 0;
  for (const auto& entry : std::filesystem::directory_iterator(IOCP_FRAMING_CORPUS)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    sim::Choices choices(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    const Differential result = CompareFramings(choices);
    EXPECT_EQ(result.failure, "") << entry.path();
    messages += result.messages;
    ++files;
  }
  EXPECT_GE(files, 20U);
  EXPECT_GE(messages, 50U) << "the corpus no longer drives what it was made for";
}

}  // namespace
}  // namespace iocp::testing
