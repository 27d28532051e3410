"""Handshakes of TLS that come to nothing, over every back-end."""

from __future__ import annotations

import logging
import ssl
import time

import pytest
from support import (
    DEADLINE,
    Connect,
    Logs,
    Recorder,
    Serve,
    clients_of,
    open_client,
    saw_end,
    wait_until,
)
from support.tls import Certificates, ConnectTls, failures, wait_failure

from iocp_bind import TLSFailure


def test_a_silent_client_is_closed_and_no_hook_knows_it(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    tls = certificates.tls(handshake_timeout=0.1)
    server = serve(Recorder(), tls=tls, first_data_timeout=None)
    silent, slow = connect(server), connect(server)
    slow.sendall(b"\x16\x03\x01")
    assert saw_end(silent)
    assert saw_end(slow)
    wait_failure(server, TLSFailure.TIMEOUT, 2)


def test_a_client_that_speaks_no_tls_is_closed(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    server = serve(Recorder(), tls=certificates.tls())
    client = connect(server)
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert saw_end(client)
    wait_failure(server, TLSFailure.PROTOCOL)


def test_a_client_that_leaves_in_the_handshake(
    serve: Serve, certificates: Certificates, connect: Connect
) -> None:
    server = serve(Recorder(), tls=certificates.tls())
    client = connect(server)
    client.sendall(b"\x16\x03\x01")
    client.close()
    wait_failure(server, TLSFailure.PEER_LEFT)


def test_a_client_that_does_not_trust_the_server(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(), tls=certificates.tls())
    with pytest.raises(ssl.SSLCertVerificationError):
        connect_tls(server, name="elsewhere.example")
    wait_failure(server, TLSFailure.REFUSED)


def test_the_log_says_who_has_failed_and_why(
    serve: Serve,
    certificates: Certificates,
    connect_tls: ConnectTls,
    caplog: pytest.LogCaptureFixture,
    logs: Logs,
) -> None:
    def lines() -> list[str]:
        return [record.getMessage() for record in logs.expect() if record.name == "iocp_bind.tls"]

    caplog.set_level(logging.DEBUG, "iocp_bind.tls")
    server = serve(Recorder(), tls=certificates.tls())
    with open_client(server) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert saw_end(plain)
        host, port = plain.getsockname()
    wait_until(lambda: len(lines()) == 1, "the line")
    with pytest.raises(ssl.SSLError, match="VERIFY_FAILED"):
        connect_tls(server, ssl.create_default_context())
    wait_until(lambda: len(lines()) == 2, "the second line")
    first, second = lines()
    shown = f"the handshake with {host}:{port} has failed"
    assert first == f"{shown}: PROTOCOL: the peer has sent no TLS"
    assert second.endswith(" has failed: REFUSED: the peer sent the alert 'unknown CA'")
    assert server.events == []


def test_a_log_that_nobody_reads_costs_nothing(
    serve: Serve, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(Recorder(), tls=certificates.tls())
    with open_client(server) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert saw_end(plain)
    wait_failure(server, TLSFailure.PROTOCOL)
    server.shutdown(0)
    assert [record for record in caplog.records if record.name == "iocp_bind.tls"] == []
    assert server.stats().hook_batches == 0


def test_a_shutdown_does_not_wait_for_handshakes(serve: Serve, certificates: Certificates) -> None:
    server = serve(Recorder(), tls=certificates.tls(), close_timeout=3600)
    with clients_of(server, 5) as clients:
        clients[0].sendall(b"\x16\x03\x01")
        wait_until(lambda: server.connection_count == 5, "the clients")
        began = time.monotonic()
        server.shutdown(DEADLINE)  # the clients never end their streams
        assert time.monotonic() - began < DEADLINE / 2
    assert server.events == []
    assert failures(server) == {TLSFailure.CLOSED: 5}


def test_clients_that_leave_in_the_handshake_free_their_places(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(Recorder(), tls=certificates.tls(), max_connections=3)
    for _ in range(3):
        with clients_of(server, 3) as clients:
            for client in clients:
                client.sendall(b"\x16")
            wait_until(lambda: server.connection_count == 3, "the clients")
        wait_until(lambda: server.connection_count == 0, "their end")
    assert server.stats().refused == 0
