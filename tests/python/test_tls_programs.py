"""The command line and the example with TLS, as a reader would run them."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from support import DEADLINE, REPOSITORY, Address, Child, ask, linux_only
from support.tls import Certificates, end_in_order, tool

import iocp_bind

pytestmark = linux_only

EXAMPLE = str(REPOSITORY / "examples" / "tls_echo.py")
ECHO = [sys.executable, "-m", "iocp_bind", "echo", "--port", "0"]


def _connect(address: Address, ca: str | Path | None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=ca)
    raw = socket.create_connection(address, DEADLINE)
    return context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)


def test_echo_with_tls(backend: str, certificates: Certificates) -> None:
    pair = certificates.server
    arguments = ["--tls-cert", pair.cert, "--tls-key", pair.key, "--backend", backend]
    with Child([*ECHO, *arguments]) as child:
        line = child.line_with("listening on ")
        assert f"with {backend} and TLS;" in line
        host, _, port = line.split("listening on ")[1].split()[0].rpartition(":")
        client = _connect((host, int(port)), certificates.ca)
        assert ask(client, b"hello") == b"hello"
        end_in_order(client)
        for event in ("connected with TLSv1.3 (1 now)", "received 5 bytes", "closed: PEER_CLOSED"):
            child.line_with(event)
        child.process.send_signal(signal.SIGINT)
        done = child.finish()
    assert (done.code, done.stdout, done.stderr) == (0, "stopped", "")


def test_echo_says_why_a_handshake_has_failed(backend: str, certificates: Certificates) -> None:
    pair = certificates.server
    arguments = ["--tls-cert", pair.cert, "--tls-key", pair.key, "--backend", backend]
    with Child([*ECHO, *arguments]) as child:
        host, _, port = (
            child.line_with("listening on ").split("listening on ")[1].split()[0].rpartition(":")
        )
        address = (host, int(port))
        plain = socket.create_connection(address, DEADLINE)
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        shown = f"the handshake with {host}:{plain.getsockname()[1]} has failed: "
        child.line_with(f"{shown}PROTOCOL: the peer has sent no TLS")
        plain.close()
        with pytest.raises(ssl.SSLError):
            _connect(address, None)
        child.line_with("has failed: REFUSED: the peer sent the alert 'unknown CA'")
        child.process.send_signal(signal.SIGINT)
        assert child.finish().code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tls-cert", "nobody.pem"], "certfile cannot be read: No such file or directory"),
        (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["--tls-cert", "{cert}"], "; give --tls-key if it is elsewhere"),
        (["--tls-cert", "{cert}", "--tls-key", "{encrypted}"], "as echo takes no password"),
    ],
)
def test_echo_with_bad_files(
    certificates: Certificates, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    pair, encrypted = certificates.server, str(tmp_path / "encrypted.pem")
    if "{encrypted}" in arguments:
        command = [tool("openssl"), "pkey", "-in", pair.key, "-aes256"]
        command += ["-passout", "pass:secret", "-out", encrypted]
        subprocess.run(command, check=True, capture_output=True)
    arguments = [word.format(cert=pair.cert, encrypted=encrypted) for word in arguments]
    done = subprocess.run([*ECHO, *arguments], capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("iocp_bind echo: ")
    assert sentence in done.stderr


def test_info_names_the_library(certificates: Certificates) -> None:
    command = [sys.executable, "-m", "iocp_bind", "info"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.splitlines()[-1] == f"TLS: {iocp_bind.tls_library().version}"


def _started(child: Child) -> Address:
    host, port = child.listening()
    return host, port


def _shown_to(address: Address, ca: str | Path) -> bytes | None:
    with _connect(address, ca) as client:
        assert ask(client, b"hello") == b"hello"
        return client.getpeercert(binary_form=True)


def test_the_example_makes_a_certificate_and_renews_it(
    backend: str, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = Path("cert.pem")
    mine.write_text("mine")
    command = [sys.executable, EXAMPLE, "--port", "0"]
    with Child(command, log_is_output=True, IOCP_BIND_BACKEND=backend) as child:
        cert = Path(child.line_with("give clients ").split("give clients ")[1].strip())
        address = _started(child)
        first = _shown_to(address, cert)
        child.line_with("a client with TLSv1.3 and ")
        old = cert.read_bytes()
        cert.write_text("nonsense")
        child.process.send_signal(signal.SIGHUP)
        child.line_with(f"the certificate was not renewed: certfile '{cert}' holds no")
        Path("trusted.pem").write_bytes(old)
        assert _shown_to(address, "trusted.pem") == first
        pair = certificates.server
        cert.write_bytes(Path(pair.cert).read_bytes())
        cert.with_name("key.pem").write_bytes(Path(pair.key).read_bytes())
        child.process.send_signal(signal.SIGHUP)
        child.line_with(f"new clients get the certificate in {cert}")
        assert _shown_to(address, certificates.ca) not in (None, first)
        child.process.send_signal(signal.SIGTERM)
        done = child.finish()
        assert done.code == 0
        assert done.stdout.endswith(f" with {backend} and TLS")
    assert not cert.parent.exists()
    assert mine.read_text() == "mine", "files of the user stay as they are"


def test_the_example_takes_a_certificate(backend: str, certificates: Certificates) -> None:
    pair = certificates.server
    command = [sys.executable, EXAMPLE, "--port", "0", "--cert", pair.cert, "--key", pair.key]
    with Child(command, log_is_output=True, IOCP_BIND_BACKEND=backend) as child:
        _shown_to(_started(child), certificates.ca)
        child.process.send_signal(signal.SIGINT)
        assert child.finish().code == 0
