// Scenarios of connections with a framing: their setups, and tests that run with the hook for one
// message and with the one for lists.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "scenario.h"
#include "session/session.h"

namespace iocp::sim {

using Messages = std::vector<std::string>;

inline FramingPtr Lines() { return Delimiter({"\n"}); }
// The first byte behind a message may be kept with it.
inline FramingPtr Growing() { return Delimiter({"ab", "abcd"}); }

inline Scenario::Setup With(const FramingPtr& framing, bool lists, Scenario::Setup setup = {}) {
  setup.hooks = kHookAll | (lists ? kHookMessages : 0U);
  setup.options.framing = framing;
  return setup;
}

// Those of Scenario, each with hooks for one message and for lists.
inline std::vector<Scenario::Setup> Setups(const FramingPtr& framing) {
  std::vector<Scenario::Setup> setups;
  for (const Scenario::Setup& ports : Scenario::Setups()) {
    for (const bool lists : {false, true}) setups.push_back(With(framing, lists, ports));
  }
  return setups;
}

inline const MessageCutter& CutterOf(Connection& connection) {
  return *Session::Of(connection).cutter();
}

// A test over many setups, which goes through them itself.
class MessageSetupsTest : public ScenarioTest {
 protected:
  void TearDown() override {
    on_each_ = nullptr;
    ScenarioTest::TearDown();
  }
  // Whichever hook is wanted does this with each message.
  void OnEach(Scenario& scenario, std::function<void(Connection&, Message&)> what) {
    on_each_ = std::move(what);
    scenario.handler().on_message = [this](Connection& connection, Message& message) {
      on_each_(connection, message);
    };
    scenario.handler().on_messages = [this](Connection& connection, std::span<Message> messages) {
      for (Message& message : messages) on_each_(connection, message);
    };
  }

 private:
  std::function<void(Connection&, Message&)> on_each_;
};

// A test in one setup, with either hook.
class MessageHooksTest : public ScenarioTest, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] Scenario::Setup Setup(const FramingPtr& framing) const {
    return With(framing, GetParam());
  }
  // Whichever hook is wanted does this, once each time.
  static void OnHook(Scenario& scenario, const std::function<void(Connection&)>& what) {
    scenario.handler().on_message = [what](Connection& connection, Message&) { what(connection); };
    scenario.handler().on_messages = [what](Connection& connection, std::span<Message>) {
      what(connection);
    };
  }
};

}  // namespace iocp::sim
