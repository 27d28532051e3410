"""Memory runs out: the exceptions that the package raises and reports then.

The heap is a library that is loaded before all others, in a process of its own: it fails when asked
to. tests/cpp/out_of_memory_test.cpp checks that no memory and no descriptor is left behind.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import linux_only, run_script

HEAP = """
#include <atomic>
#include <cstdlib>
#include <new>

// How many allocations succeed before one fails; below 0: all do.
extern "C" std::atomic<long> good;
std::atomic<long> good{-1};

void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  if (good.load() >= 0 && good.fetch_sub(1) == 0) return nullptr;
  return std::malloc(size == 0 ? 1 : size);
}
void* operator new(std::size_t size) {
  void* const memory = operator new(size, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
"""

PROGRAM = """
import ctypes, errno, itertools, socket, sys
import iocp_bind

good = ctypes.c_long.in_dll(ctypes.CDLL(None), "good")
backend = sys.argv[1]

class Server(iocp_bind.Server):
    def __init__(self):
        super().__init__()
        self.errors = []

    def on_connection_established(self, conn):
        conn.pause_reading()
        conn.send(b"paused")

    def on_connection_error(self, conn, error):
        self.errors.append(error)
"""

# When all of start has got its memory, the allocation that fails may be one of the running server's
# workers: how many they make until the shutdown depends on the time. Then the log says so.
START = """
import logging

class Kept(logging.Handler):
    def emit(self, record):
        kept.append(record.getMessage())

kept = []
logging.getLogger("iocp_bind").addHandler(Kept())

def start(number):
    kept.clear()
    server = Server()
    good.value = number
    try:
        server.start(port=0, backend=backend)
        server.shutdown(0)
        assert all("accepting is paused" in message for message in kept), kept
        return True
    except MemoryError as error:
        assert str(error)
        assert not kept
        return False
    finally:
        failed = good.value < 0
        good.value = -1
        if not failed:
            print("all succeed", number)

start(-1)  # what is made once is there
refused = sum(not start(number) for number in range(400))
print("refused", refused)
"""

# A paused connection keeps what it receives, which takes memory.
RECEIVE = """
server = Server()
server.start(port=0, backend=backend)
for number in itertools.cycle(range(6)):
    if server.errors:
        break
    with socket.create_connection(server.address, timeout=20) as client:
        assert client.recv(6, socket.MSG_WAITALL) == b"paused"
        good.value = number
        client.sendall(b"x")
        client.settimeout(0.2)
        try:
            client.recv(1)
        except OSError:
            pass
        good.value = -1
server.shutdown()
print([(type(error).__name__, error.errno == errno.ENOMEM) for error in server.errors][:1])
"""


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the heap that fails."""
    compiler = shutil.which("c++")
    assert compiler is not None, "c++ is missing: tools/bootstrap.sh installs it"
    folder = tmp_path_factory.mktemp("heap")
    source, library = folder / "heap.cpp", folder / "heap.so"
    source.write_text(HEAP, encoding="utf-8")
    command = [compiler, "-std=c++20", "-shared", "-fPIC", "-O1", str(source), "-o", str(library)]
    subprocess.run(command, check=True, timeout=100)
    return library


@linux_only
def test_start_raises_memory_error(backend: str, heap: Path) -> None:
    done = run_script(PROGRAM + START, backend, LD_PRELOAD=str(heap))
    assert (done.code, done.stderr) == (0, "")
    assert "all succeed" in done.stdout
    assert int(done.stdout.split("refused ")[1]) >= 10


@linux_only
def test_a_connection_error_has_the_code(backend: str, heap: Path) -> None:
    done = run_script(PROGRAM + RECEIVE, backend, LD_PRELOAD=str(heap))
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.strip() == "[('OSError', True)]"
