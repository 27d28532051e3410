"""Every option: what it takes, what it does, and what answers a mistake."""

from __future__ import annotations

import errno
import gc
import inspect
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from support import (
    ON_LINUX,
    Connect,
    Echo,
    Recorder,
    Serve,
    ask,
    backends_of_this_system,
    descriptor_count,
    linux_only,
    open_client,
    run_script,
    server_socket_of,
)

import iocp_bind

HUGE = 10**30


# name: (good values, values of the wrong type, values out of range)
OPTIONS: dict[str, tuple[list[Any], list[Any], list[Any]]] = {
    "backend": (["auto"], [1, None, b"auto"], ["uring", "", "EPOLL"]),
    "workers": ([None, 1, 3], ["1", 1.0, True], [0, -1, 100_000, HUGE]),
    "max_connections": ([1, 50_000], ["1", 1.0, None], [0, -1, HUGE]),
    "at_capacity": (["refuse", "wait"], [1, None, b"wait"], ["drop", ""]),
    "listen_backlog": ([1, 4096], ["1", 1.0, None], [0, -1, HUGE]),
    "initial_accepts": ([1, 100], ["1", 1.0, None], [0, -1, HUGE]),
    "max_accepts": ([10, 1000], ["1", 1.0, None], [0, -1, HUGE]),
    "initial_reads": ([0, 1, 4], ["1", 1.0, None], [-1, HUGE]),
    "buffer_size": ([512, 1 << 20], ["1", 1.0, None], [0, -1, 1, 1 << 40, HUGE]),
    "max_free_buffers": ([0, 1000], ["1", 1.0, None], [-1, HUGE]),
    "max_free_contexts": ([0, 1000], ["1", 1.0, None], [-1, HUGE]),
    "send_backlog_limit": ([1, 1 << 30], ["1", 1.0, None], [0, -1, HUGE]),
    "max_pending_sends": ([None, 1, 1000], ["1", 1.0, True], [0, -1, HUGE]),
    "write_high_water": ([16 * 1024, 1 << 30], ["1", 1.0, None], [-1, HUGE]),
    "write_low_water": ([0, 64 * 1024], ["1", 1.0, None], [-1, HUGE]),
    "flow_control": ([True, False], [1, "yes", None], []),
    "framing": (
        [None, ...],
        [4, "line", b"\n", iocp_bind.LengthPrefix],
        [],
    ),
    "tls": ([None, ...], ["cert.pem", True, iocp_bind.TLS], []),
    "established_on": (["connect", "first_data"], [1, None], ["accept", ""]),
    "first_data_timeout": ([None, 1, 0.5], ["1", True], [0, -1, 1e30, HUGE]),
    "idle_timeout": ([None, 1, 0.5], ["1", True], [0, -1, 1e30, HUGE]),
    "receive_timeout": ([None, 1, 0.5], ["1", True], [0, -1, 1e30, HUGE]),
    "message_timeout": ([None, 1, 0.5], ["1", True], [0, -1, 1e30, HUGE]),
    "write_timeout": ([None, 1, 0.5], ["1", True], [0, -1, 1e30, HUGE]),
    "close_timeout": ([0, 0.5, 60], ["1", True, None], [-1, 1e30, HUGE]),
    "keepalive": (
        [None, (5, 1), (5.0, 1.0), (60, 10)],
        [5, "5", ("5", 1), (5, None)],
        [(5,), (5, 1, 1), (0, 1), (5, -1), (5, HUGE)],
    ),
    "no_delay": ([True, False], [1, "yes", None], []),
    "reuse_port": ([True, False] if ON_LINUX else [False], [1, "yes", None], []),
    "dual_stack": ([True, False], [1, "yes", None], []),
    "zero_copy": ([True, False], [1, "yes", None], []),
}
NOT_A_NUMBER = float("nan")
INFINITE = float("inf")
TIMEOUTS = [
    "first_data_timeout",
    "idle_timeout",
    "receive_timeout",
    "message_timeout",
    "write_timeout",
    "close_timeout",
]


def _cases(which: int) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}={value!r:.20}")
        for name, values in OPTIONS.items()
        for value in values[which]
    ]


def test_this_file_knows_every_option_and_default() -> None:
    parameters = inspect.signature(iocp_bind.Server.start).parameters
    keywords = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(keywords) == set(OPTIONS)
    assert [n for n in parameters if n not in keywords] == ["self", "host", "port"]
    defaults = {name: parameter.default for name, parameter in keywords.items()}
    buffer_size = defaults.pop("buffer_size")
    assert isinstance(buffer_size, int)
    assert defaults == {
        "backend": "auto",
        "workers": None,
        "max_connections": 2000,
        "at_capacity": "refuse",
        "listen_backlog": 1024,
        "initial_accepts": 10,
        "max_accepts": 100,
        "initial_reads": 4,
        "max_free_buffers": 200,
        "max_free_contexts": 100,
        "send_backlog_limit": 1 << 20,
        "max_pending_sends": None,
        "write_high_water": 64 * 1024,
        "write_low_water": 16 * 1024,
        "flow_control": True,
        "framing": ...,
        "tls": ...,
        "established_on": "connect",
        "first_data_timeout": 120.0,
        "idle_timeout": None,
        "receive_timeout": None,
        "message_timeout": None,
        "write_timeout": None,
        "close_timeout": 5.0,
        "keepalive": (5.0, 1.0),
        "no_delay": True,
        "reuse_port": False,
        "dual_stack": True,
        "zero_copy": False,
    }
    assert (parameters["host"].default, parameters["port"].default) == ("127.0.0.1", 4567)


@pytest.mark.parametrize(("name", "value"), _cases(0))
def test_a_good_value_is_taken(
    serve: Serve, connect: Connect, backend: str, name: str, value: Any
) -> None:
    server = serve(Echo(), **{"backend": backend, name: value})
    assert ask(connect(server), b"works") == b"works"


def _refused(error: type[Exception], name: str, **options: Any) -> None:
    """Start is refused with a message that names the option, and the server is as before."""
    server = iocp_bind.Server()
    with pytest.raises(error) as caught:
        server.start(**{"port": 0, **options})
    assert name in str(caught.value), str(caught.value)
    assert not server.running


@pytest.mark.parametrize(("name", "value"), _cases(1))
def test_a_value_of_the_wrong_type_is_refused(name: str, value: Any) -> None:
    _refused(TypeError, name, **{name: value})


@pytest.mark.parametrize(("name", "value"), _cases(2))
def test_a_value_out_of_range_is_refused(name: str, value: Any) -> None:
    _refused(ValueError, name, **{name: value})


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [NOT_A_NUMBER, INFINITE, -INFINITE])
def test_a_time_that_is_no_number_is_refused(name: str, value: float) -> None:
    _refused(ValueError, name, **{name: value})


def test_the_low_mark_may_not_be_above_the_high_one() -> None:
    _refused(ValueError, "write_low_water", write_high_water=10, write_low_water=11)


@pytest.mark.parametrize("port", [-1, 65536, 70000, HUGE])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    """D20: for the original, port 70000 was 4464."""
    _refused(ValueError, "port", port=port)


@pytest.mark.parametrize("port", ["80", None, 80.0, True])
def test_a_port_of_the_wrong_type_is_refused(port: Any) -> None:
    _refused(TypeError, "port", port=port)


@pytest.mark.parametrize("host", [None, 5, b"127.0.0.1"])
def test_a_host_of_the_wrong_type_is_refused(host: Any) -> None:
    _refused(TypeError, "host", host=host)


def test_a_host_with_a_zero_byte_is_refused() -> None:
    _refused(ValueError, "host", host="127.0.0.1\0.evil")


@pytest.mark.parametrize("name", ["max_conections", "Backend", "timeout", "hosts"])
def test_a_misspelt_option_is_refused(name: str) -> None:
    _refused(TypeError, name, **{name: 1})


def test_options_are_keywords_only() -> None:
    server: Any = iocp_bind.Server()
    with pytest.raises(TypeError):
        server.start("127.0.0.1", 0, "epoll")


def test_numbers_of_numpy_are_numbers(serve: Serve) -> None:
    np = pytest.importorskip("numpy")
    serve(
        Echo(), max_connections=np.int64(10), idle_timeout=np.float64(5), buffer_size=np.int32(4096)
    )


# ---- The system refuses.


def _system_error(server: iocp_bind.Server, host: str, port: int, **options: Any) -> OSError:
    """Start fails with an OSError whose message names the address; nothing is left behind."""
    gc.collect()  # servers of tests before
    before = descriptor_count() if ON_LINUX else 0
    for _ in range(5):
        with pytest.raises(OSError) as caught:
            server.start(host, port, **options)
        assert not server.running
        assert host in str(caught.value)
        assert str(port) in str(caught.value)
    if ON_LINUX:
        assert descriptor_count() <= before
    server.start(port=0, **options)
    server.shutdown()
    return caught.value


def test_a_port_in_use(serve: Serve, backend: str) -> None:
    other = serve(Echo())
    error = _system_error(iocp_bind.Server(), *other.address, backend=backend)
    assert error.errno == errno.EADDRINUSE
    assert "bind" in str(error) or "listen" in str(error)
    with open_client(other) as client:
        assert ask(client, b"unharmed") == b"unharmed"


def test_a_port_that_a_stranger_uses(backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        error = _system_error(iocp_bind.Server(), *stranger.getsockname(), backend=backend)
    assert error.errno == errno.EADDRINUSE


def test_a_host_that_does_not_resolve(backend: str) -> None:
    error = _system_error(iocp_bind.Server(), "no-such-host.invalid", 4567, backend=backend)
    assert isinstance(error, socket.gaierror)


def test_an_address_of_another_machine(backend: str) -> None:
    error = _system_error(iocp_bind.Server(), "192.0.2.1", 4567, backend=backend)
    assert error.errno == errno.EADDRNOTAVAIL


@linux_only
def test_a_privileged_port(backend: str) -> None:
    if sys.platform != "linux":
        return
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if int(first.read_text()) <= 80:
        pytest.skip("this system has no privileged ports")
    script = """
import os, sys, iocp_bind, socket, encodings.idna, traceback
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
server = iocp_bind.Server()
try:
    server.start("127.0.0.1", 80, backend=sys.argv[1])
except PermissionError as error:
    print(error.errno, error)
print(server.running)
"""
    done = run_script(script, backend)
    assert done.code == 0, done.stderr
    message, running = done.stdout.splitlines()
    assert message.startswith(str(errno.EACCES))
    assert "127.0.0.1" in message
    assert "80" in message
    assert running == "False"


def test_a_backend_of_another_system() -> None:
    foreign = "iocp" if sys.platform != "win32" else "epoll"
    info = iocp_bind.backends()[foreign]
    assert not info.available
    assert info.reason
    server = iocp_bind.Server()
    with pytest.raises(iocp_bind.BackendUnavailable) as caught:
        server.start(port=0, backend=foreign)  # type: ignore[arg-type]
    assert isinstance(caught.value, RuntimeError)
    assert foreign in str(caught.value)
    assert info.reason in str(caught.value)
    assert not server.running


# ---- Back-ends.


def test_backends_lists_each() -> None:
    backends = iocp_bind.backends()
    assert set(backends) == {"iocp", "io_uring", "epoll"}
    for info in backends.values():
        assert isinstance(info, iocp_bind.BackendInfo)
        assert info.available is (info.reason == "")
    available = {name for name, info in backends.items() if info.available}
    assert available <= set(backends_of_this_system())


def test_a_server_names_the_backend_it_uses(serve: Serve, backend: str) -> None:
    assert iocp_bind.Server().backend == ""
    assert serve(Echo()).backend == backend


def test_auto_is_the_best_one(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IOCP_BIND_BACKEND", raising=False)
    best = next(name for name, info in iocp_bind.backends().items() if info.available)
    assert serve(Echo(), backend="auto").backend == best


def test_the_environment_chooses(
    serve: Serve, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOCP_BIND_BACKEND", backend)
    assert serve(Echo(), backend="auto").backend == backend
    monkeypatch.setenv("IOCP_BIND_BACKEND", "nonsense")
    assert serve(Echo(), backend=backend).backend == backend  # what is asked for wins
    _refused(ValueError, "IOCP_BIND_BACKEND")
    monkeypatch.setenv("IOCP_BIND_BACKEND", "iocp" if sys.platform != "win32" else "epoll")
    with pytest.raises(iocp_bind.BackendUnavailable):
        iocp_bind.Server().start(port=0)
    monkeypatch.setenv("IOCP_BIND_BACKEND", "")
    serve(Echo(), backend="auto")


# ---- Addresses.


def test_port_zero_picks_one(serve: Serve) -> None:
    a, b = serve(Echo()), serve(Echo())
    assert a.address[0] == b.address[0] == "127.0.0.1"
    assert a.address[1] != b.address[1]
    assert all(1024 <= server.address[1] <= 65535 for server in (a, b))


def test_loopback_is_the_default(serve: Serve) -> None:
    assert serve(Echo(), host="127.0.0.1").address[0] == "127.0.0.1"
    assert inspect.signature(iocp_bind.Server.start).parameters["host"].default == "127.0.0.1"


@pytest.mark.parametrize("host", ["", "0.0.0.0"])
def test_all_of_ipv4(serve: Serve, connect: Connect, host: str) -> None:
    server = serve(Recorder(read=echo_back_and_close), host=host)
    assert server.address[0] == "0.0.0.0"
    client = connect(("127.0.0.2", server.address[1]))
    assert ask(client, b"x") == b"x"
    assert server.wait_connection().local_address == ("127.0.0.2", server.address[1])


def echo_back_and_close(conn: iocp_bind.Connection, data: bytes) -> None:
    conn.send(data)
    conn.close()


def test_a_name_is_resolved(serve: Serve, connect: Connect) -> None:
    server = serve(Echo(), host="localhost")
    assert server.address[0] in ("127.0.0.1", "::1")
    assert ask(connect(server), b"x") == b"x"


def _need_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this system has no IPv6")


def test_ipv6(serve: Serve, connect: Connect) -> None:
    _need_ipv6()
    server = serve(Recorder(read=echo_back_and_close), host="::1")
    assert server.address[0] == "::1"
    client = connect(server)
    assert ask(client, b"x") == b"x"
    conn = server.wait_connection()
    assert conn.remote_address == client.getsockname()[:2]
    assert conn.local_address == ("::1", server.address[1])


@pytest.mark.parametrize("dual_stack", [True, False])
def test_dual_stack(serve: Serve, connect: Connect, dual_stack: bool) -> None:
    _need_ipv6()
    server = serve(Recorder(read=echo_back_and_close), host="::", dual_stack=dual_stack)
    port = server.address[1]
    assert ask(connect(("::1", port)), b"six") == b"six"
    if not dual_stack:
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", port))
        return
    assert ask(connect(("127.0.0.1", port)), b"four") == b"four"
    # An IPv4 client reads as IPv4.
    assert server.wait_connection(1).remote_address[0] == "127.0.0.1"


def test_reuse_port(serve: Serve) -> None:
    if sys.platform == "win32":
        with pytest.raises(ValueError, match="reuse_port is not available on Windows"):
            serve(Echo(), reuse_port=True)
        return
    first = serve(Echo(), reuse_port=True)
    second = serve(Echo(), port=first.address[1], reuse_port=True)
    assert first.address == second.address
    with pytest.raises(OSError):
        iocp_bind.Server().start(port=first.address[1], backend=first.backend)  # type: ignore[arg-type]


def test_the_port_can_be_used_again_at_once(serve: Serve, connect: Connect) -> None:
    """Connections in TIME_WAIT must not keep a restarted service from its port."""
    server = serve(Recorder(read=echo_back_and_close))
    address = server.address
    client = connect(server)
    ask(client, b"x")
    client.close()
    server.wait_count("closing")
    for _ in range(3):
        server.shutdown()
        serve(server, port=address[1])
        assert server.address == address


# ---- Options of the sockets.


@linux_only
@pytest.mark.parametrize("keepalive", [None, (5.0, 1.0), (60, 10)])
@pytest.mark.parametrize("no_delay", [True, False])
def test_options_reach_the_socket(
    serve: Serve, connect: Connect, keepalive: tuple[float, float] | None, no_delay: bool
) -> None:
    if sys.platform != "linux":
        return
    server = serve(Recorder(), keepalive=keepalive, no_delay=no_delay)
    client = connect(server)
    server.wait_connection()
    with server_socket_of(client) as inside:

        def get(level: int, option: int) -> int:
            return inside.getsockopt(level, option)

        assert bool(get(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is no_delay
        assert bool(get(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is (keepalive is not None)
        if keepalive is not None:
            assert get(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == keepalive[0]
            assert get(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == keepalive[1]
        # Children of the user's program must not inherit clients.
        assert os.get_inheritable(inside.fileno()) is False


@linux_only
def test_no_descriptor_is_inherited(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder())
    connect(server)
    server.wait_connection()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
            inheritable = os.get_inheritable(int(entry.name))
        except OSError:
            continue
        if "socket:" in target or "anon_inode:" in target:
            assert not inheritable, f"{entry.name} -> {target}"
