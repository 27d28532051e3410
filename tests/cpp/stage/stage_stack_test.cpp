#include "stage/stage_stack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stream/buffer_pool.h"

namespace iocp {
namespace {

// Each call goes to a function of the test. Where there is none, bytes pass as they are.
class ScriptedStage final : public Stage {
 public:
  bool is_ready = true;
  std::size_t most_taken = 1'000'000;  // bytes in one call
  std::size_t copies = 1;              // of each byte that is sent
  std::string end;
  std::function<Error(Output&)> on_begin;
  std::function<Error(std::string_view, Output&)> on_receive;
  std::function<Error(Output&)> on_send;  // first
  int sends_after_end = 0;

  Error Begin(Output& output) override { return on_begin ? on_begin(output) : Error{}; }
  Error Receive(Buffer bytes, Output& output) override {
    if (on_receive) return on_receive(bytes.view(), output);
    output.Up(std::move(bytes));
    return {};
  }
  Error EndReceive(Output&) override { return {}; }
  Error Send(const Piece* pieces, std::size_t count, std::size_t* taken, Output& output) override {
    if (ended_) ++sends_after_end;
    if (on_send) {
      if (Error error = on_send(output)) return error;
    }
    for (std::size_t i = 0; i < count && *taken < most_taken; ++i) {
      const std::size_t size = std::min(pieces[i].size, most_taken - *taken);
      for (std::size_t copy = 0; copy < copies; ++copy) output.Down(pieces[i].data, size);
      *taken += size;
    }
    return {};
  }
  Error EndSend(Output& output) override {
    ended_ = true;
    output.Down(end.data(), end.size());
    return {};
  }
  [[nodiscard]] bool ready() const override { return is_ready; }

 private:
  bool ended_ = false;  // true exactly when EndSend was called
};

class StageStackTest : public ::testing::Test, public StageStack::Sink {
 protected:
  // The stages of `count` layers, the one next to the wire first.
  void Make(std::size_t count) {
    std::vector<std::unique_ptr<Stage>> stages;
    for (std::size_t i = 0; i < count; ++i) {
      auto stage = std::make_unique<ScriptedStage>();
      stages_.push_back(stage.get());
      stages.push_back(std::move(stage));
    }
    stack_ = std::make_unique<StageStack>(std::move(stages));
  }
  ScriptedStage& stage(std::size_t index) { return *stages_[index]; }
  StageStack& stack() { return *stack_; }
  void Push(std::string_view bytes) { user_.Push(SendItem::Copy(&bytes, 1, nullptr)); }
  Error Send() { return stack_->Send(user_, *this); }
  Error EndSend() { return stack_->EndSend(user_, *this); }
  Error Receive(std::string_view bytes) { return stack_->Receive(BufferPool::Copy(bytes), *this); }
  // The system takes up to `most` bytes. How many of the user's sends are complete with them.
  std::size_t Take(std::size_t most) {
    Piece pieces[kMaxPieces];
    const std::size_t count = stack_->Gather(pieces);
    std::size_t size = 0;
    for (std::size_t i = 0; i < count && size < most; ++i) {
      const std::size_t take = std::min(pieces[i].size, most - size);
      wire_.append(static_cast<const char*>(pieces[i].data), take);
      size += take;
    }
    SendQueue complete;
    const std::size_t ended = user_.Advance(stack_->Sent(size, &memory_), complete);
    return ended;
  }
  void Deliver(Buffer bytes) override { up_ += bytes.view(); }
  void DeliverEnd() override { ++ends_; }
  [[nodiscard]] StageStack::TimePoint Now() const override { return {}; }
  [[nodiscard]] SendMemory* send_memory() override { return &memory_; }

  SendMemory memory_;
  SendQueue user_;
  std::string wire_;
  std::string up_;
  int ends_ = 0;

 private:
  std::vector<ScriptedStage*> stages_;
  std::unique_ptr<StageStack> stack_;
};

TEST_F(StageStackTest, ASendIsCompleteWithItsLastWireByte) {
  Make(1);
  stage(0).copies = 2;
  stage(0).most_taken = 2;
  Push("abc");
  Push("");
  Push("d");
  EXPECT_FALSE(Send());
  EXPECT_EQ(stack().waiting(), 8U);
  EXPECT_EQ(Take(5), 0U);
  // The second part was made of "c" and "d", and goes out as a whole.
  EXPECT_EQ(Take(2), 0U);
  EXPECT_EQ(Take(1), 3U);
  EXPECT_EQ(wire_, "ababccdd");
  EXPECT_TRUE(stack().empty());
  EXPECT_EQ(stack().bytes_sent(), 8U);
}

TEST_F(StageStackTest, WhatGoesOutIsMadeInTheMemoryOfTheWorker) {
  Make(2);
  for (int i = 0; i < 3; ++i) {
    Push("abc");
    EXPECT_FALSE(Send());
    EXPECT_EQ(memory_.kept(), 0U) << "the block of each layer is in use";
    EXPECT_EQ(Take(100), 1U);
    EXPECT_EQ(memory_.kept(), 2 * SendMemory::BlockSize(1)) << "both came back";
  }
}

TEST_F(StageStackTest, EmptySendsAreCompleteOnceAllBeforeThemIsOut) {
  Make(1);
  Push("");
  EXPECT_FALSE(Send());
  EXPECT_EQ(Take(1), 1U);
  Push("a");
  Push("");
  EXPECT_FALSE(Send());
  EXPECT_EQ(Take(0), 0U);
  EXPECT_EQ(Take(1), 2U);
}

TEST_F(StageStackTest, AStageThatIsNotReadyTakesNothing) {
  Make(2);
  stage(0).is_ready = false;
  Push("abc");
  EXPECT_FALSE(Send());
  EXPECT_FALSE(stack().ready());
  EXPECT_TRUE(stack().empty());
  EXPECT_EQ(stack().waiting(), 3U) << "the upper one is ready";
  stage(0).is_ready = true;
  EXPECT_FALSE(Send());
  EXPECT_EQ(Take(100), 1U);
  EXPECT_EQ(wire_, "abc");
}

// Through both layers, in small portions, with more than one of them holds.
TEST_F(StageStackTest, TakesNoMoreThanItsOutputMayHold) {
  Make(2);
  stage(1).most_taken = 1000;
  stage(0).copies = 2;
  std::string sent;
  for (int i = 0; i < 20; ++i) {
    const std::string text(50'000, static_cast<char>('a' + i));
    Push(text);
    sent += text;
  }
  stage(1).end = "!";
  std::size_t complete = 0;
  std::size_t most = 0;
  for (int i = 0; i < 100'000 && !(stack().ended() && stack().empty()); ++i) {
    EXPECT_FALSE(EndSend());
    most = std::max(most, stack().waiting());
    complete += Take(10'007);
  }
  EXPECT_EQ(complete, 20U);
  EXPECT_LE(most, 5 * StageStack::kMostAhead);
  EXPECT_EQ(wire_.size(), 2 * sent.size() + 2);
  EXPECT_EQ(wire_.substr(wire_.size() - 2), "!!") << "the end comes behind everything";
}

TEST_F(StageStackTest, NothingFollowsTheEnd) {
  Make(2);
  stage(0).end = "0";
  stage(1).end = "1";
  stage(1).on_receive = [](std::string_view, Stage::Output& output) {
    output.Down("late", 4);
    return Error{};
  };
  Push("abc");
  EXPECT_FALSE(EndSend());
  EXPECT_TRUE(stack().ended());
  EXPECT_FALSE(Receive("x"));
  EXPECT_FALSE(EndSend());
  EXPECT_EQ(Take(100), 1U);
  EXPECT_EQ(wire_, "abc10");
  EXPECT_EQ(stage(0).sends_after_end, 0);
}

TEST_F(StageStackTest, WhatStagesSendByThemselvesFillsTheStack) {
  Make(1);
  const std::string answer(StageStack::kMostAhead, 'y');
  stage(0).on_receive = [&](std::string_view, Stage::Output& output) {
    output.Down(answer.data(), answer.size());
    return Error{};
  };
  EXPECT_FALSE(Receive("x"));
  EXPECT_FALSE(stack().full());
  Push("abc");
  EXPECT_FALSE(Receive("x"));
  EXPECT_TRUE(stack().full());
  EXPECT_FALSE(Send());
  EXPECT_EQ(Take(answer.size()), 0U);
  EXPECT_FALSE(stack().full());
  EXPECT_FALSE(Send());
  EXPECT_EQ(Take(answer.size()), 0U);
  EXPECT_FALSE(Send());
  EXPECT_EQ(Take(100), 1U);
}

TEST_F(StageStackTest, AnErrorOfAnUpperStageIsReportedAndNoStageIsCalledAgain) {
  Make(2);
  stage(1).on_receive = [](std::string_view, Stage::Output& output) {
    output.Up(BufferPool::Copy("before"));
    return Error{ErrorKind::kOther, 7};
  };
  EXPECT_EQ(Receive("x").code, 7);
  EXPECT_EQ(up_, "before");
  stage(0).on_receive = [](std::string_view, Stage::Output&) -> Error {
    ADD_FAILURE() << "it is called again";
    return {};
  };
  EXPECT_FALSE(Receive("x"));
  EXPECT_FALSE(stack().EndReceive(*this));
  Push("abc");
  EXPECT_FALSE(Send());
  EXPECT_TRUE(stack().empty());
  EXPECT_EQ(ends_, 0);
}

TEST_F(StageStackTest, WithoutMemoryItIsOutOfResources) {
  Make(2);
  stage(1).on_send = [](Stage::Output&) -> Error { throw std::bad_alloc(); };
  Push("abc");
  EXPECT_EQ(Send().kind, ErrorKind::kOutOfResources);
  EXPECT_FALSE(Send());
}

// While a lower stage sends what an upper one has made, the upper one may make more.
TEST_F(StageStackTest, AStageMayBeCalledInsideAnotherOnesSend) {
  Make(2);
  int calls = 0;
  stage(0).on_send = [&](Stage::Output& output) {
    if (++calls <= 3) output.Up(BufferPool::Copy("x"));
    return Error{};
  };
  stage(1).on_receive = [](std::string_view bytes, Stage::Output& output) {
    output.Down("pong", 4);
    output.Up(BufferPool::Copy(bytes));
    return Error{};
  };
  Push("abc");
  EXPECT_FALSE(Send());
  EXPECT_EQ(Take(100), 1U);
  EXPECT_EQ(wire_, "abcpongpongpong");
  EXPECT_EQ(up_, "xxx");
  EXPECT_EQ(stack().waiting(), 0U);
}

TEST_F(StageStackTest, TheStreamEndsOnce) {
  Make(2);
  stage(0).on_receive = [](std::string_view, Stage::Output& output) {
    output.EndUp();
    output.Up(BufferPool::Copy("late"));
    return Error{};
  };
  EXPECT_FALSE(Receive("x"));
  EXPECT_FALSE(Receive("x"));
  EXPECT_FALSE(stack().EndReceive(*this));
  EXPECT_EQ(ends_, 1);
  EXPECT_EQ(up_, "");
}

}  // namespace
}  // namespace iocp
