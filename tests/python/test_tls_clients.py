"""Certificates of clients, and sessions that are resumed."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from support import Recorder, Serve, ask, echo_back, recv_to_end, wait_until
from support.tls import EACH_VERSION, Certificates, ConnectTls, failures, wait_failure

from iocp_bind import TLSFailure


@pytest.fixture
def stranger(certificates: Certificates) -> Certificates:
    """An authority that the server does not know."""
    return certificates.stranger


def _der(certificates: Certificates) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(certificates.client.cert).read_text())


# ---- Certificates of clients.


@EACH_VERSION
@pytest.mark.parametrize("verify", ["none", "optional", "required"])
def test_a_client_with_a_trusted_certificate(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str, verify: str
) -> None:
    tls = certificates.tls(ca=None if verify == "none" else certificates.ca, verify=verify)
    server = serve(Recorder(read=echo_back), tls=tls)
    client = connect_tls(server, certificates.context(version, pair=certificates.client))
    assert ask(client, b"x") == b"x"
    info = server.wait_connection().tls
    assert info is not None
    assert info.peer_certificate == (None if verify == "none" else _der(certificates))


@EACH_VERSION
@pytest.mark.parametrize("verify", ["none", "optional"])
def test_a_client_may_come_without_one(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str, verify: str
) -> None:
    tls = certificates.tls(ca=None if verify == "none" else certificates.ca, verify=verify)
    server = serve(Recorder(read=echo_back), tls=tls)
    assert ask(connect_tls(server, certificates.context(version)), b"x") == b"x"
    info = server.wait_connection().tls
    assert info is not None
    assert info.peer_certificate is None


def _is_refused(connect_tls: ConnectTls, server: Any, context: ssl.SSLContext) -> None:
    # With TLS 1.3 the client has done its part before the server looks.
    with pytest.raises((ssl.SSLError, ConnectionError)):
        recv_to_end(connect_tls(server, context))
    wait_failure(server, TLSFailure.CERTIFICATE)


@EACH_VERSION
def test_a_client_without_one_is_refused(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str
) -> None:
    tls = certificates.tls(ca=certificates.ca, verify="required")
    server = serve(Recorder(), tls=tls)
    _is_refused(connect_tls, server, certificates.context(version))


@EACH_VERSION
@pytest.mark.parametrize("verify", ["optional", "required"])
def test_a_client_with_one_that_is_not_trusted_is_refused(
    serve: Serve,
    certificates: Certificates,
    stranger: Certificates,
    connect_tls: ConnectTls,
    version: str,
    verify: str,
) -> None:
    server = serve(Recorder(), tls=certificates.tls(ca=certificates.ca, verify=verify))
    _is_refused(connect_tls, server, certificates.context(version, pair=stranger.client))


# ---- Sessions.


def _session(client: ssl.SSLSocket) -> ssl.SSLSession:
    """Return its session. The tickets of TLS 1.3 come with the first data."""
    assert ask(client, b"x") == b"x"
    session = client.session
    assert session is not None
    return session


@EACH_VERSION
def test_sessions_are_resumed_on_whichever_worker(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str
) -> None:
    server = serve(Recorder(read=echo_back), tls=certificates.tls(), workers=4)
    context = certificates.context(version)
    first = connect_tls(server, context)
    session = _session(first)
    clients = [connect_tls(server, context, session=session) for _ in range(8)]
    for client in clients:
        assert ask(client, b"y") == b"y"
        assert client.session_reused
    # All are connected at once, so each worker has some. On Windows any worker may take each.
    if sys.platform != "win32":
        assert len({event.thread for event in server.of("established")}) == 4
    assert server.stats().tls_resumed == 8
    resumed = [conn.tls.resumed for conn in server.connections() if conn.tls is not None]
    assert sorted(resumed) == [False] + [True] * 8


def test_a_resumed_session_keeps_the_certificate_of_the_client(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    tls = certificates.tls(ca=certificates.ca, verify="required")
    server = serve(Recorder(read=echo_back), tls=tls)
    context = certificates.context(pair=certificates.client)
    session = _session(connect_tls(server, context))
    assert ask(connect_tls(server, context, session=session), b"x") == b"x"
    info = server.wait_connection(1).tls
    assert info is not None
    assert (info.resumed, info.peer_certificate) == (True, _der(certificates))


@EACH_VERSION
def test_without_tickets_nothing_is_resumed(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str
) -> None:
    server = serve(Recorder(read=echo_back), tls=certificates.tls(session_tickets=False))
    context = certificates.context(version)
    for _ in range(2):
        client = connect_tls(server, context)
        assert ask(client, b"x") == b"x"
        session = client.session
        assert session is None or not session.has_ticket
        again = connect_tls(server, context, session=session)
        assert ask(again, b"x") == b"x"
        assert not again.session_reused


@EACH_VERSION
def test_servers_with_the_same_keys_resume_each_others_sessions(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str
) -> None:
    old, new = os.urandom(48), os.urandom(80)
    context = certificates.context(version)

    def server_with(*keys: bytes) -> Recorder:
        return serve(Recorder(read=echo_back), tls=certificates.tls(ticket_keys=keys))

    session = _session(connect_tls(server_with(old), context))
    for keys, resumes in (((old,), True), ((new, old), True), ((new,), False)):
        client = connect_tls(server_with(*keys), context, session=session)
        assert ask(client, b"x") == b"x"
        assert client.session_reused == resumes


def test_a_session_does_not_go_on_with_other_authorities(
    serve: Serve, certificates: Certificates, stranger: Certificates, connect_tls: ConnectTls
) -> None:
    """Not even with the same ticket keys."""
    keys = [os.urandom(80)]
    context = certificates.context(pair=certificates.client)
    tls = certificates.tls(ca=certificates.ca, verify="required", ticket_keys=keys)
    session = _session(connect_tls(serve(Recorder(read=echo_back), tls=tls), context))
    other = certificates.tls(ca=stranger.ca, verify="required", ticket_keys=keys)
    server = serve(Recorder(read=echo_back), tls=other)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        recv_to_end(connect_tls(server, context, session=session))
    wait_until(lambda: failures(server) != {}, "the failure")
    assert server.events == []
