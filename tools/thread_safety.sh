#!/usr/bin/env bash
# Checks the engine with clang's -Wthread-safety; compiles nothing: an access that the annotations of cpp/base/mutex.h forbid is an error. $1 is the number of jobs.
set -euo pipefail
# The configured build has the folder with what users include.
cmake --preset dev >/dev/null
printf '%s\0' cpp/iocp.cpp cpp/{base,compat,engine,session,stream}/*.cpp cpp/stage/{,*/}*.cpp \
  cpp/port/{*_linux,common/*,readiness/*,uring/*}.cpp |
  grep -zv windows |
  xargs -0 -n 1 -P "$1" clang++ -std=c++20 -fsyntax-only -Icpp -Ibuild/dev/include \
    -DIOCP_HAVE_URING -Wall -Wextra -Wthread-safety -Werror
