"""Run the example server in C++ and let clients upload to it."""

import socket
import subprocess
import sys


def answer(address: tuple[str, int], data: bytes) -> bytes:
    """What a client gets that sends `data` and then ends its stream."""
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(1000):
            received += part
        return received


def main() -> int:
    """Return 0 when every answer is right and the server ends in order."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.argv[1]], stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().split()
        for size in (0, 1, 300_000):
            got = answer((host, int(port)), bytes(size))
            if got != b"%d\n" % size:
                print(f"{size} bytes were answered with {got!r}")
                server.kill()
                return 1
    return server.returncode


if __name__ == "__main__":
    sys.exit(main())
