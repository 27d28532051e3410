#include "base/thread.h"

#include <gtest/gtest.h>

#ifdef __GLIBC__
#endif

namespace iocp {
namespace {

TEST(ThreadTest, RunsAndKnowsItself) {
  bool ran = false;
  Thread thread("a-name", [&] { ran = true; });
  thread.Join();
  EXPECT_TRUE(ran);
}

#ifdef __GLIBC__
TEST(ThreadTest, CarriesItsNameCutToWhatTheSystemTakes) {
  char name[16] = "";
  Thread("a-name-of-more-than-15-bytes", [&] {
    ::pthread_getname_np(::pthread_self(), name, sizeof(name));
  }).Join();
  EXPECT_STREQ(name, "a-name-of-more-");
}

TEST(ThreadTest, HasRoomOnItsStackWhereTheSystemsDefaultIsSmall) {
  pthread_attr_t before;
  pthread_attr_t small;
  ASSERT_EQ(::pthread_getattr_default_np(&before), 0);
  ASSERT_EQ(::pthread_getattr_default_np(&small), 0);
  ASSERT_EQ(::pthread_attr_setstacksize(&small, std::size_t{128} << 10U), 0);
  ASSERT_EQ(::pthread_setattr_default_np(&small), 0);
  std::size_t size = 0;
  Thread("small", [&] {
    pthread_attr_t mine;
    if (::pthread_getattr_np(::pthread_self(), &mine) != 0) return;
    ::pthread_attr_getstacksize(&mine, &size);
    ::pthread_attr_destroy(&mine);
  }).Join();
  EXPECT_GE(size, Thread::kLeastStack);
  ::pthread_setattr_default_np(&before);
  ::pthread_attr_destroy(&small);
  ::pthread_attr_destroy(&before);
}
#endif

}  // namespace
}  // namespace iocp
