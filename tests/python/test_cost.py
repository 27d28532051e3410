"""The cost of an echoed message with a Python hook, in instructions of the worker.

Counted by callgrind, so the figure does not depend on the machine's mood; the test fails when
somebody doubles it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ON_LINUX

# On epoll: valgrind lets no other thread run while one waits in io_uring_enter. All above the port
# is the same code. callgrind counts each thread on its own; a thread that has ended may leave its
# number to the next. So two servers live side by side, which differ in the number of messages only.
PROGRAM = """
import socket, sys
import iocp_bind

class Echo(iocp_bind.Server):
    def on_read_completed(self, conn, data):
        conn.send(data)

def serve(messages, connections):
    server = Echo()
    server.start("127.0.0.1", 0, backend="epoll", workers=1)
    clients = [socket.create_connection(server.address) for _ in range(connections)]
    for _ in range(messages // connections):
        for client in clients:
            client.sendall(b"x" * 64)
        for client in clients:
            assert client.recv(64, socket.MSG_WAITALL) == b"x" * 64
    return server

connections = int(sys.argv[1])
servers = [serve(messages, connections) for messages in map(int, sys.argv[2:])]
for server in servers:
    server.shutdown()
"""
FEW, MANY = 64, 1088


def _instructions_per_message(connections: int, folder: Path) -> float:
    valgrind = shutil.which("valgrind")
    assert valgrind is not None, "valgrind is missing: tools/bootstrap.sh installs it"
    command = [
        *(valgrind, "--tool=callgrind", "--separate-threads=yes"),
        f"--callgrind-out-file={folder / 'out'}",
        *(sys.executable, "-c", PROGRAM, str(connections), str(FEW), str(MANY)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    counts = []
    for file in sorted(folder.glob("out-*")):
        totals = re.search(r"^summary: (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        counts.append(int(totals[1]) if totals else 0)
    assert len(counts) == 3, f"a main thread and two workers, not {counts}"
    return (counts[2] - counts[1]) / (MANY - FEW)


@pytest.mark.skipif(not ON_LINUX, reason="callgrind runs on Linux")
@pytest.mark.parametrize(
    ("connections", "most"),
    [pytest.param(1, 6500, id="one at a time"), pytest.param(64, 3800, id="in batches")],
)
def test_instructions_of_an_echoed_message(connections: int, most: int, tmp_path: Path) -> None:
    cost = _instructions_per_message(connections, tmp_path)
    print(f"{connections} connections: {cost:.0f} instructions for a message")
    assert 100 < cost < most
