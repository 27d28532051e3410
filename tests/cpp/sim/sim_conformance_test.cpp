// The conformance suite over the simulated port, with faults off: what holds for real ports holds
// for it, so what the server survives on it means something.
#include "network.h"
#include "port/port_harness.h"
#include "sim_port.h"

namespace iocp::sim {
namespace {

using testing::ConformanceTest;
using testing::World;
using testing::WorldParam;

class SimWorld final : public World {
 public:
  explicit SimWorld(const Network::Settings& settings) : network_(choices_, settings) {}
  ~SimWorld() override { EXPECT_EQ(network_.failure(), ""); }

  [[nodiscard]] const PortKind& kind() const override { return kSimPortKind; }
  [[nodiscard]] bool required() const override { return true; }
  [[nodiscard]] bool real() const override { return false; }
  [[nodiscard]] bool has_ipv6() const override { return false; }
  std::unique_ptr<Peer> Connect(const Address& to) override {
    LinkPtr link = network_.Connect(to);
    if (link == nullptr) return nullptr;
    return std::make_unique<SimPeer>(network_, std::move(link));
  }
  [[nodiscard]] int initial_reads() const override { return network_.settings.reads; }
  [[nodiscard]] bool faithful_resets() const override { return true; }
  [[nodiscard]] bool knows_unacknowledged() const override { return true; }
  [[nodiscard]] bool sees_resets_while_paused() const override { return true; }
  [[nodiscard]] std::chrono::nanoseconds ProcessorTime() const override { return {}; }
  [[nodiscard]] bool has_descriptor_limit() const override { return true; }
  void ExhaustDescriptors(bool exhausted) override { network_.exhausted = exhausted; }
  [[nodiscard]] std::size_t OpenDescriptors() const override { return network_.open_descriptors(); }

 private:
  Choices choices_{1};
  Network network_;
};

WorldParam SimWorldParam(int reads) {
  return {"reads" + std::to_string(reads), [reads]() -> std::unique_ptr<World> {
            Network::Settings settings;
            settings.reads = reads;
            return std::make_unique<SimWorld>(settings);
          }};
}

INSTANTIATE_TEST_SUITE_P(Sim, ConformanceTest,
                         ::testing::Values(SimWorldParam(0), SimWorldParam(1), SimWorldParam(4),
                                           SimWorldParam(16)),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace iocp::sim
