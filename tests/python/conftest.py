"""Fixtures. They return the types of `support`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    ON_LINUX,
    Connect,
    Logs,
    S,
    Serve,
    Target,
    backends_of_this_system,
    open_client,
    thread_count,
    uring_refusal,
    wait_until,
)
from support.tls import Certificates, ConnectTls, make_connect_tls, need_tls

import iocp_bind

with contextlib.suppress(ImportError):
    import numpy as np  # noqa: F401  its threads must not be taken for the server's

with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "here",
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.load_profile("here")


def pytest_configure() -> None:
    """Let Ctrl-C through: a script's background job ignores it, and so would its children."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=backends_of_this_system())
def backend(request: pytest.FixtureRequest) -> str:
    """Each back-end of this system. One that it must have fails rather than skips."""
    name: str = request.param
    info = iocp_bind.backends()[name]
    if info.available:
        return name
    if name == "io_uring":
        refusal = uring_refusal()
        if refusal is not None:
            pytest.skip(f"{refusal}; {info.reason}")
        if os.environ.get("IOCP_BIND_ALLOW_NO_URING") == "1":
            pytest.skip(info.reason)
    pytest.fail(f"{name} must be available on this system: {info.reason}")


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    """Fail the test when the package logged something nobody expected."""
    handler = Logs()
    logger = logging.getLogger("iocp_bind")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
    if not handler.expected:
        assert [record.getMessage() for record in handler.records] == []


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Fail the test when it left threads behind: those of a server, or its own."""
    if not ON_LINUX:
        yield
        return
    before = thread_count()
    yield
    wait_until(lambda: thread_count() <= before, f"threads beyond {before} ending")


@pytest.fixture
def serve(backend: str) -> Iterator[Serve]:
    """Start servers on free ports; shut them down after the test.

    IOCP_BIND_TEST_WORKERS is how many workers they have where a test does not say.
    """
    started: list[iocp_bind.Server] = []
    defaults: dict[str, Any] = {"backend": backend}
    if workers := os.environ.get("IOCP_BIND_TEST_WORKERS"):
        defaults["workers"] = int(workers)

    def start(server: S, **options: Any) -> S:
        host = options.pop("host", "127.0.0.1")
        port = options.pop("port", 0)
        started.append(server)
        server.start(host, port, **{**defaults, **options})
        return server

    try:
        yield start
    finally:
        for server in started:
            server.shutdown(0.5)
    assert not any(server.running for server in started)


@pytest.fixture
def connect(serve: Serve) -> Iterator[Connect]:
    """Make clients; close them after the test, before the servers stop."""
    opened: list[socket.socket] = []

    def make(target: Target, *, receive_buffer: int | None = None) -> socket.socket:
        client = open_client(target, receive_buffer=receive_buffer)
        opened.append(client)
        return client

    try:
        yield make
    finally:
        for client in opened:
            client.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for the tests of TLS, which need this fixture to run."""
    need_tls()
    beforehand = os.environ.get("IOCP_BIND_TEST_CERTIFICATES")
    return Certificates(Path(beforehand) if beforehand else tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def connect_tls(serve: Serve, certificates: Certificates) -> Iterator[ConnectTls]:
    """Make clients with TLS; close them after the test, before the servers stop."""
    yield from make_connect_tls(certificates)
