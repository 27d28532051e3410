// A network that does not exist: virtual time, listeners, connections and their clients. One
// thread; everything that happens, happens in a call of a test.
//
// A connection is two pipes. Bytes that are sent arrive later, by the faults; so do the end of the
// stream and a reset, which overtakes what has not arrived, as on a real network.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "choices.h"
#include "port/completion_port.h"
#include "port/peer.h"

namespace iocp::sim {

using testing::Peer;

// How late a deadline may be judged: one tick of the wheel, and what faults may delay, the request
// of another thread or a receive that is under way.
inline constexpr std::chrono::milliseconds kLateness{120};

// How likely each misfortune is, each time that it could happen.
struct Faults {
  double delay = 0;             // bytes and completions take their time
  double reorder = 0;           // completions come in another order
  double short_read = 0;        // a receive brings less than has arrived
  double short_send = 0;        // a send takes less than there is room for
  double reset = 0;             // the network breaks a connection
  double lost_data = 0;         // a reset takes with it what had arrived
  double send_error = 0;        // a send fails on a connection that lives
  double late_cancel = 0;       // what is cancelled, or paused, completes anyway
  double accept_error = 0;      // a client is gone before it is accepted
  double accept_exhausted = 0;  // no descriptor for a newcomer
  double adopt_error = 0;       // a socket cannot be set up
  double no_memory = 0;         // an allocation fails
  double late_posting = 0;      // a posting waits for another turn
  double spurious = 0;          // a worker wakes up for nothing
  double clock_jump = 0;        // much time has passed
  double broken_port = 0;       // the system stops a port for good

  // Some runs have none, some all, most a few.
  static Faults Draw(Choices& choices);
};

// Mistakes that a port could make, for testing that somebody sees them.
enum class Bug : std::uint8_t {
  kNone,
  kLosesAByte,          // of a receive
  kRepeatsAByte,        // of a send
  kSwapsReads,          // two receives get each other's place in the stream
  kResetAsEnd,          // a reset is reported as an end of stream
  kEndOvertakesData,    // the end of the stream gets the place of data that had arrived before it
  kCompletesTwice,      // a send
  kForgetsACompletion,  // a send
  kCountsTooMuch,       // a send reports more bytes than it took
  kForgetsAnAccept,     // an accept that failed is not replaced
  kForgetsAWakeUp,      // a posting
  kLeavesASocketOpen,   // a close
  kKeepsABuffer,        // of a receive
  kAcceptsTheBacklog,   // all of it, where newcomers may have to wait
};
inline constexpr Bug kAllBugs[] = {
    Bug::kLosesAByte,       Bug::kRepeatsAByte,   Bug::kSwapsReads,         Bug::kResetAsEnd,
    Bug::kEndOvertakesData, Bug::kCompletesTwice, Bug::kForgetsACompletion, Bug::kCountsTooMuch,
    Bug::kForgetsAnAccept,  Bug::kForgetsAWakeUp, Bug::kLeavesASocketOpen,  Bug::kKeepsABuffer,
    Bug::kAcceptsTheBacklog};

class SimPort;

// One direction.
class Pipe {
 public:
  // The receiver's side takes so many of the bytes that a pipe holds; the rest waits at the
  // sender's.
  Pipe(std::size_t window, std::size_t receiver_takes)
      : window_(window), receiver_takes_(receiver_takes) {}

  // The sender's. Space is what it may send now.
  [[nodiscard]] std::size_t Space() const;
  void Push(std::string_view bytes, TimePoint arrives);
  void End(TimePoint arrives);
  // How much of what was sent has not come to the receiver's side.
  std::size_t Unacknowledged(TimePoint now) {
    Arrived(now);
    return flying_bytes_;
  }
  [[nodiscard]] bool ended() const { return ended_; }

  // The receiver's, as of `now`.
  std::string_view Arrived(TimePoint now);
  void Take(std::size_t size);
  // True exactly when the end has arrived and all before it was taken.
  bool AtEnd(TimePoint now);
  [[nodiscard]] bool anything_left() const { return !arrived().empty() || !flying_.empty(); }

  void Drop();  // everything on its way and everything that has arrived

 private:
  struct Segment {
    TimePoint arrives;
    std::string bytes;
  };
  [[nodiscard]] std::string_view arrived() const {
    return std::string_view(arrived_).substr(taken_);
  }

  const std::size_t window_;
  const std::size_t receiver_takes_;
  std::deque<Segment> flying_;
  std::size_t flying_bytes_ = 0;
  std::string arrived_;
  std::size_t taken_ = 0;  // of arrived_
  TimePoint last_arrival_ = TimePoint::min();
  bool ended_ = false;
  TimePoint end_arrives_;
};

// A connection, as the network knows it.
struct Link {
  Link(std::uint16_t port, std::size_t window)
      : client_port(port), up(window, window), down(window, window / 2) {}

  const std::uint16_t client_port;
  Address server;
  Pipe up;    // from the client to the server
  Pipe down;  // from the server to the client
  // A reset on its way, or one that has come.
  struct Reset {
    TimePoint arrives = TimePoint::max();  // max: there is none
    bool drops = false;  // true exactly when it takes with it what had arrived before
  };
  Reset to_server;
  Reset to_client;
  bool client_open = true;   // true exactly until the client has closed or reset
  bool server_open = true;   // true exactly until the server has
  bool server_shut = false;  // true exactly when the server has ended its stream, and not closed
};
using LinkPtr = std::shared_ptr<Link>;

class Network {
 public:
  struct Settings {
    std::size_t window = 64 * 1024;  // bytes a pipe holds
    int reads = 1;                   // receives outstanding for each connection
    bool shared = false;             // several workers wait on one port
    bool sends_now = true;           // ports have SendNow
    // True exactly when Wait lets time pass; else it returns with nothing, and who steps the
    // workers lets it pass.
    bool wait_passes_time = true;
    Bug bug = Bug::kNone;  // that ports make once in a while
    bool log = false;      // writes what is noted to stderr
  };

  Network(Choices& choices, const Settings& settings);
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  ~Network();

  // The one that lives, for PortKind's functions.
  static Network& Current();

  Choices& choices;
  const Settings settings;
  Faults faults;
  bool exhausted = false;  // nobody gets another descriptor
  // How a send fails on a connection that lives.
  ErrorKind send_error = ErrorKind::kOther;

  [[nodiscard]] TimePoint now() const { return now_; }
  void AdvanceTo(TimePoint time);
  // When something arrives next; max when nothing is on its way.
  [[nodiscard]] TimePoint NextEvent();
  // Marks a moment at which something will have changed.
  void Expect(TimePoint when) {
    if (when > now_) events_.push(when);
  }
  // Now, or later by the faults.
  TimePoint Soon();
  // Whether a failure happens that could happen here: by its probability, or as the only one.
  bool Fails(double probability);
  // From now on none happens but the `nth` that could, the first being 1.
  void FailOnly(std::uint64_t nth) { only_ = nth; }
  [[nodiscard]] std::uint64_t could_have_failed() const { return could_have_failed_; }

  // Clients. Null when nobody listens on that port.
  LinkPtr Connect(const Address& to);
  void SendReset(Link& link, bool to_server);
  // True when a reset has come there.
  bool ResetArrived(Link& link, bool at_server);

  // A connection that the server gives up, as it is at that moment.
  struct GivenUp {
    TimePoint at;
    TimePoint heard_at;   // when a worker last got bytes of it, or it began to be received from
    bool heard = false;   // true exactly when a worker ever did
    bool speaks = false;  // true exactly when bytes or an end wait there for a receive
    TimePoint took_at;    // when a send last took bytes, or began
    bool takes = false;   // true exactly when there is room for a send that waits
  };
  std::map<std::uint16_t, GivenUp> given_up;  // by the client's port
  std::set<std::uint16_t> reset_to_server;    // ports of clients whose reset was sent to the server
  std::set<std::uint16_t> refused;  // ports of clients that ever took less than was offered
  std::uint64_t sent_now = 0;       // calls of SendNow
  std::size_t broken_ports = 0;     // that the system has stopped for good
  // Since when the client that has this port has been silent: see GivenUp::heard_at. No value: it
  // is not received from, or there is something to receive.
  std::optional<TimePoint> SilentSince(std::uint16_t client_port);

  // Ports of clients that have spoken, and whose connection was closed in order before they had
  // taken all. The system keeps that for clients that may never take it. One that never spoke may
  // be taking it.
  std::set<std::uint16_t> left_to_take;

  // The server's descriptors. The lowest number that is free is the next, so numbers come back at
  // once.
  NativeSocket OpenListener(std::uint16_t port, Address* bound);
  NativeSocket OpenConnection(LinkPtr link);
  [[nodiscard]] LinkPtr LinkOf(NativeSocket handle) const;
  std::deque<LinkPtr>* BacklogOf(NativeSocket listener);
  // How many ports accept on it: none when it is closed.
  void BeginAccepting(NativeSocket listener) { ++handles_[listener].accepting; }
  void EndAccepting(NativeSocket listener);
  void CloseListener(NativeSocket handle);
  void CloseConnection(NativeSocket handle, bool reset);
  [[nodiscard]] std::size_t open_descriptors() const { return handles_.size() + open_ports; }
  // Sockets that the server has taken from the network and not closed.
  [[nodiscard]] std::size_t open_connections() const;
  std::size_t open_ports = 0;

  std::vector<SimPort*> ports;  // those that live, in the order in which they were made
  // Called where a port is called with no lock held: others may move.
  std::function<void()> yield = [] {};

  // For a test that forces an order. Completions of which this says true stay with the system.
  std::function<bool(const Completion&)> held_back;

  // Notes an event, for the log and for the hash of all events.
  void Note(const char* what, std::uint64_t which = 0, std::uint64_t how_much = 0);
  [[nodiscard]] std::uint64_t trace() const { return trace_; }

  // A rule was broken. The first one counts.
  void Fail(const std::string& what) {
    if (failure_.empty()) failure_ = what;
  }
  void Check(bool holds, const char* what) {
    if (!holds) Fail(what);
  }
  [[nodiscard]] const std::string& failure() const { return failure_; }

 private:
  struct Handle {
    LinkPtr link;  // null: a listener
    std::uint16_t port = 0;
    std::deque<LinkPtr> backlog;
    std::size_t accepting = 0;  // ports that accept on the listener
  };
  NativeSocket FreeNumber() const;

  TimePoint now_;
  std::priority_queue<TimePoint, std::vector<TimePoint>, std::greater<>> events_;
  std::map<NativeSocket, Handle> handles_;
  std::uint16_t next_client_port_ = 40000;
  std::uint16_t next_server_port_ = 20000;
  std::uint64_t only_ = 0;  // 0: by chance
  std::uint64_t could_have_failed_ = 0;
  std::uint64_t trace_ = 0xcbf29ce484222325U;  // FNV-1a's beginning
  std::string failure_;
};

// A client.
class SimPeer final : public Peer {
 public:
  SimPeer(Network& network, LinkPtr link) : network_(network), link_(std::move(link)) {}
  ~SimPeer() override { Close(); }

  std::size_t Send(std::string_view data) override;
  std::string Receive(std::size_t most) override;
  [[nodiscard]] State state() const override { return state_; }
  void EndStream() override;
  void Close() override;
  void Reset() override;
  [[nodiscard]] std::uint16_t port() const override { return link_->client_port; }

 private:
  Network& network_;
  LinkPtr link_;
  State state_ = State::kOpen;
};

}  // namespace iocp::sim
