"""Servers with TLS, and other implementations than Python's as clients."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    ON_LINUX,
    Child,
    Connect,
    Recorder,
    Serve,
    ask,
    echo_back,
    linux_only,
    pattern,
    wait_until,
)
from support.tls import Certificates, ConnectTls, failures, tool

import iocp_bind
from iocp_bind import CloseReason, Connection, TLSFailure

if ON_LINUX:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it asks for asyncore
        from tlslite.constants import KeyUpdateMessageType  # type: ignore[import-untyped]
        from tlslite.handshakesettings import (  # type: ignore[import-untyped]
            HandshakeSettings,
        )
        from tlslite.messages import ApplicationData  # type: ignore[import-untyped]
        from tlslite.tlsconnection import TLSConnection  # type: ignore[import-untyped]

pytestmark = linux_only


@pytest.fixture
def echo(serve: Serve, certificates: Certificates) -> Recorder:
    return serve(Recorder(read=echo_back), tls=certificates.tls(), workers=2)


# ---- OpenSSL.


def _s_client(server: Recorder, certificates: Certificates, *options: str) -> Child:
    host, port = server.address
    command = [tool("openssl"), "s_client", "-connect", f"{host}:{port}", "-servername"]
    command += ["localhost", "-verify_hostname", "localhost", "-verify_return_error"]
    return Child([*command, "-CAfile", certificates.ca, *options], log_is_output=True)


def _ask(client: Child, line: str) -> None:
    client.send_line(line)
    client.line_with(line)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_talks(echo: Recorder, certificates: Certificates, version: str) -> None:
    with _s_client(echo, certificates, version) as client:
        _ask(client, "hello")
        _ask(client, "again")
        client.send_line("Q")
        assert client.finish().code == 0
    assert echo.wait_closed(echo.wait_connection()) is CloseReason.PEER_CLOSED


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(echo: Recorder, certificates: Certificates, version: str) -> None:
    # Without the security level of today the client would speak them.
    with _s_client(echo, certificates, version, "-cipher", "ALL:@SECLEVEL=0") as client:
        client.line_with("alert protocol version")
        assert client.finish().code == 1
    echo.wait_for(lambda: failures(echo) == {TLSFailure.PROTOCOL: 1}, "the failure")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_resumes_its_session_and_early_data_is_refused(
    echo: Recorder, certificates: Certificates, version: str, tmp_path: Path
) -> None:
    session = str(tmp_path / "session.pem")
    early = tmp_path / "early"
    early.write_text("GET /transfer-money\n")
    with _s_client(echo, certificates, version, "-sess_out", session) as client:
        _ask(client, "hello")
        client.send_line("Q")
        assert client.finish().code == 0
    options = ["-sess_in", session]
    if version == "-tls1_3":
        options += ["-early_data", str(early)]
    with _s_client(echo, certificates, version, *options) as client:
        client.line_with("Reused, TLSv1.")
        if version == "-tls1_3":
            client.line_with("Early data was not sent")
        _ask(client, "again")
        client.send_line("Q")
        assert client.finish().code == 0
    echo.wait_count("closing", 2)
    received = b"".join(event.value for event in echo.of("read"))
    assert received == b"hello\nagain\n"
    assert echo.stats().tls_resumed == 1


def test_openssl_changes_its_keys(echo: Recorder, certificates: Certificates) -> None:
    with _s_client(echo, certificates, "-tls1_3") as client:
        _ask(client, "hello")
        for command, line in (("k", "first"), ("K", "second")):  # K asks for new keys of ours too
            client.send_line(command)
            client.line_with("KEYUPDATE")
            _ask(client, line)
        client.send_line("Q")
        assert client.finish().code == 0
    assert echo.wait_closed(echo.wait_connection()) is CloseReason.PEER_CLOSED


def test_renegotiation_is_refused(echo: Recorder, certificates: Certificates) -> None:
    with _s_client(echo, certificates, "-tls1_2") as client:
        _ask(client, "hello")
        client.send_line("R")
        client.line_with("no renegotiation")
        client.finish()
    conn = echo.wait_connection()
    assert echo.wait_closed(conn) in (CloseReason.ERROR, CloseReason.PEER_CLOSED)
    assert echo.received(conn) == b"hello\n"
    assert echo.stats().tls_handshakes == 1


# ---- GnuTLS.


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_gnutls_talks_and_resumes(echo: Recorder, certificates: Certificates, version: str) -> None:
    host, port = echo.address
    command = [tool("gnutls-cli"), "--x509cafile", certificates.ca, "--sni-hostname", "localhost"]
    command += ["--verify-hostname", "localhost", "--port", str(port)]
    command += ["--resume", "--waitresumption"]
    command += ["--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}", host]
    with Child(command, log_is_output=True) as client:
        client.line_with(f"(TLS{version}-X.509)" if version == "1.3" else "(TLS1.2")
        client.line_with("This is a resumed session")
        client.line_with("Simple Client Mode")
        _ask(client, "hello")
        client.process.stdin.close()  # type: ignore[union-attr]
        assert client.finish().code == 0
    echo.wait_count("closing", 2)
    assert set(echo.reasons()) == {CloseReason.PEER_CLOSED}
    assert echo.stats().tls_resumed == 1


# ---- curl.


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_gets_a_page_up_to_its_end(
    serve: Serve, certificates: Certificates, version: str, tmp_path: Path
) -> None:
    """The end of the page is that of the stream."""
    page = pattern(3_000_000)

    def read(conn: Connection, data: bytes) -> None:
        conn.send(b"HTTP/1.0 200 OK\r\n\r\n")
        conn.send(page)
        conn.close()

    server = serve(Recorder(read=read), tls=certificates.tls(alpn=["http/1.1"]))
    _, port = server.address
    got = tmp_path / "page"
    command = [tool("curl"), "-sS", "--cacert", certificates.ca, f"--tlsv{version}"]
    command += ["--tls-max", version, "--resolve", f"localhost:{port}:127.0.0.1", "--noproxy", "*"]
    command += ["--max-time", str(DEADLINE), "-o", str(got), f"https://localhost:{port}/"]
    subprocess.run(command, check=True, timeout=2 * DEADLINE)
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(page).digest()
    info = server.wait_connection().tls
    assert info is not None
    assert (info.version, info.alpn) == (f"TLSv{version}", "http/1.1")


# ---- tlslite-ng, whose client may do what others do not.


@pytest.fixture
def tlslite(echo: Recorder, connect: Connect, request: pytest.FixtureRequest) -> Any:
    """A connected client; the parameter is the version."""
    raw = connect(echo)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = TLSConnection(raw)
    settings = HandshakeSettings()
    version = getattr(request, "param", "1.3")
    settings.minVersion = settings.maxVersion = (3, 4 if version == "1.3" else 3)
    client.handshakeClientCert(serverName="localhost", settings=settings)
    client.closeSocket = False
    return client


BOTH_VERSIONS = pytest.mark.parametrize("tlslite", ["1.2", "1.3"], indirect=True)


@BOTH_VERSIONS
def test_one_byte_in_each_record(echo: Recorder, tlslite: Any) -> None:
    tlslite.recordSize = 1
    data = pattern(500)
    tlslite.sendall(data)
    assert bytes(tlslite.read(min=len(data), max=len(data))) == data
    conn = echo.wait_connection()
    echo.wait_for(lambda: echo.received(conn) == data, "the data")


@BOTH_VERSIONS
def test_records_that_are_cut_everywhere(echo: Recorder, tlslite: Any, connect: Connect) -> None:
    """Byte for byte, each when the one before has come."""
    conn = echo.wait_connection()
    wire: list[bytes] = []
    tlslite.sock = _Collecting(tlslite.sock, wire)
    tlslite.sendall(b"hello")
    raw = tlslite.sock.inner
    before = conn.bytes_received
    for byte in b"".join(wire):
        raw.sendall(bytes([byte]))
        before += 1
        wait_until(lambda: conn.bytes_received >= before, "the byte", pause=0.0002)  # noqa: B023
    echo.wait_for(lambda: echo.received(conn) == b"hello", "the data")


class _Collecting:
    """A socket that keeps what would be sent."""

    def __init__(self, inner: Any, wire: list[bytes]) -> None:
        self.inner = inner
        self._wire = wire

    def send(self, data: bytes) -> int:
        self._wire.append(bytes(data))
        return len(data)

    def sendall(self, data: bytes) -> None:
        self._wire.append(bytes(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _is_ended(echo: Recorder, match: str) -> None:
    conn = echo.wait_connection()
    assert echo.wait_closed(conn) is CloseReason.ERROR
    (error,) = echo.of("error")
    assert type(error.value) is iocp_bind.TLSError
    assert match in str(error.value)


@BOTH_VERSIONS
def test_a_broken_record_ends_the_connection_behind_the_good_ones(
    echo: Recorder, tlslite: Any
) -> None:
    tlslite.sendall(b"good")
    tlslite.sock.sendall(b"\x17\x03\x03\x00\x40" + os.urandom(64))
    _is_ended(echo, "bad record mac")
    assert echo.received(echo.wait_connection()) == b"good"


def test_a_record_that_is_too_long_ends_the_connection(echo: Recorder, tlslite: Any) -> None:
    tlslite.sock.sendall(b"\x17\x03\x03\xff\xff")
    _is_ended(echo, "length too long")


def _flood(tlslite: Any, send: Any, count: int) -> None:
    """All at once, as what counts is how many come in a second."""
    tlslite.sock.buffer_writes = True
    for _ in range(count):
        for _ in send():
            pass
    with contextlib.suppress(OSError):  # it has been closed
        tlslite.sock.flush()


def test_a_flood_of_key_updates_ends_the_connection(echo: Recorder, tlslite: Any) -> None:
    kind = KeyUpdateMessageType.update_not_requested
    _flood(tlslite, lambda: tlslite.send_keyupdate_request(kind), 300)
    _is_ended(echo, "too many records that are not data")


@BOTH_VERSIONS
def test_a_flood_of_empty_records_ends_the_connection(echo: Recorder, tlslite: Any) -> None:
    # It is wrapped and encrypted in place, so each time it is another one.
    layer = tlslite._recordLayer
    _flood(tlslite, lambda: layer.sendRecord(ApplicationData().create(bytearray())), 2000)
    _is_ended(echo, "record too small")  # OpenSSL's words for many empty ones in a row


def test_those_who_are_connected_do_not_notice(
    echo: Recorder, tlslite: Any, connect_tls: ConnectTls
) -> None:
    other = connect_tls(echo)
    assert ask(other, b"before") == b"before"
    tlslite.sock.sendall(os.urandom(1000))
    assert ask(other, b"after") == b"after"


# ---- Scanners.


def test_sslscan_finds_nothing_old(echo: Recorder, tmp_path: Path) -> None:
    host, port = echo.address
    report = tmp_path / "report.xml"
    command = [tool("sslscan"), "--no-colour", f"--xml={report}", "--sni-name=localhost"]
    subprocess.run([*command, f"{host}:{port}"], check=True, capture_output=True, timeout=100)
    test = ET.parse(report).getroot().find("ssltest")
    assert test is not None
    spoken = {
        f"{found.get('type')} {found.get('version')}"
        for found in test.findall("protocol")
        if found.get("enabled") == "1"
    }
    assert spoken == {"tls 1.2", "tls 1.3"}
    ciphers = test.findall("cipher")
    assert ciphers
    assert {found.get("strength") for found in ciphers} <= {"strong", "acceptable"}
    for name in ("heartbleed", "compression", "renegotiation"):
        for found in test.findall(name):
            assert "1" not in (found.get("vulnerable"), found.get("supported")), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_testssl_finds_nothing_above_low(echo: Recorder, tmp_path: Path) -> None:
    host, port = echo.address
    report = tmp_path / "report.json"
    command = [tool("testssl"), "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none"]
    command += ["--protocols", "--fs", "--server-preference", "--vulnerable", "--each-cipher"]
    command += ["--sneaky", "--jsonfile", str(report), f"{host}:{port}"]
    subprocess.run(command, check=False, capture_output=True, timeout=500)
    findings = json.loads(report.read_text())
    assert len(findings) > 30, findings
    bad = {"MEDIUM", "HIGH", "CRITICAL"}
    assert [found for found in findings if found["severity"] in bad] == []
