// Scopes that the hooks of the simulation's handler share.
#pragma once

#include <string>
#include <utility>

#include "app.h"
#include "memory.h"

namespace iocp::sim {

// From the beginning of a hook to its end: hooks of one connection never overlap.
class App::HookScope {
 public:
  HookScope(App& app, Known& known, const char* name, std::uint64_t detail)
      : app_(app), known_(known) {
    ++app.hooks_;
    app.Check(!std::exchange(known.in_hook, true), "hooks of one connection overlap");
    app.Check(app.batches_ > 0, "a hook outside a batch");
    app.network_.Note(name, known.connection->remote_address().port, detail);
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;
  ~HookScope() {
    app_.yield();
    known_.in_hook = false;
  }

 private:
  const FailingMemory::Scope unarmed_{false};
  App& app_;
  Known& known_;
};

// Bytes lent to a send: they come back exactly once.
struct App::Loan {
  App* app;
  std::string bytes;

  static void Release(void* self) {
    const FailingMemory::Scope unarmed(false);
    auto* loan = static_cast<Loan*>(self);
    loan->app->Check(loan->app->batches_ > 0 || loan->app->sends_messages_,
                     "shared bytes are given back outside a batch");
    --loan->app->loans_;
    delete loan;
  }
};

}  // namespace iocp::sim
