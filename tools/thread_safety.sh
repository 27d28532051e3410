#!/usr/bin/env bash
# Compiles the engine with clang, as the preset fuzz does but for no output, with -Wthread-safety: an
# access that the annotations of cpp/base/mutex.h forbid is an error. $1 is the number of jobs.
set -euo pipefail
printf '%s\0' cpp/*.cpp cpp/base/*_posix.cpp cpp/port/{epoll,posix,uring,port_kinds_linux}*.cpp |
  xargs -0 -n 1 -P "$1" clang++ -std=c++20 -fsyntax-only -Icpp -DIOCP_HAVE_URING \
    -Wall -Wextra -Wthread-safety -Werror
