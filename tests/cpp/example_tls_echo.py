"""Run the example server with TLS: argv has it, and the program that makes certificates."""

import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path


def echo(port: int, folder: Path, data: bytes) -> bytes:
    """Return the answer to a client that sends `data` and closes in order."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(data)
        received = b""
        while len(received) < len(data):
            received += client.recv(65536)
        client.unwrap()
        return received


def main() -> int:
    """Return 0 when every answer is right and the server ends in order."""
    pipe = subprocess.PIPE
    _, program, make_certificates = sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([make_certificates, name], check=True)
        command = [program, str(folder / "server.pem"), str(folder / "server.key")]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            for size in (1, 30_000):
                if echo(port, folder, bytes(size)) != bytes(size):
                    print(f"{size} bytes were not echoed")
                    server.kill()
                    return 1
        command[1] = str(folder / "missing.pem")
        refused = subprocess.run(command, stderr=pipe, text=True, check=False)
        if refused.returncode != 1 or "missing.pem" not in refused.stderr:
            print(f"a missing file is reported as {refused.stderr!r}")
            return 1
    return server.returncode


if __name__ == "__main__":
    sys.exit(main())
