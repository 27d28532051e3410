"""Servers with TLS, over every back-end, with clients of Python's `ssl`."""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
from typing import Any

import pytest
from support import (
    DEADLINE,
    Connect,
    EachMessage,
    Logs,
    Recorder,
    Serve,
    ask,
    echo_back,
    in_threads,
    open_client,
    pattern,
    recv_exact,
    recv_to_end,
    run_script,
    wait_until,
)
from support.tls import (
    EACH_VERSION,
    Certificates,
    ConnectTls,
    cut_off,
    end_in_order,
    exchange,
    failures,
    names_of,
    tool,
)

import iocp_bind
from iocp_bind import TLS, CloseReason, Connection, TLSFailure

# ---- Data.


@EACH_VERSION
def test_hooks_get_what_the_client_sent_and_the_client_what_hooks_sent(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str
) -> None:
    server = serve(Recorder(read=echo_back), tls=certificates.tls())
    client = connect_tls(server, certificates.context(version))
    assert ask(client, b"hello") == b"hello"
    assert ask(client, b"again") == b"again"
    end_in_order(client)
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    server.check_grammar()
    assert server.received(conn) == b"helloagain"
    assert [event.value for event in server.of("write")] == [5, 5]
    stats = server.stats()
    assert (stats.tls_handshakes, stats.tls_resumed, failures(server)) == (1, 0, {})


@EACH_VERSION
@pytest.mark.parametrize("zero_copy", [False, True])
def test_large_transfers_both_ways(
    serve: Serve,
    certificates: Certificates,
    connect_tls: ConnectTls,
    version: str,
    zero_copy: bool,
) -> None:
    data = pattern(6_000_000)
    server = serve(Recorder(read=echo_back), tls=certificates.tls(), zero_copy=zero_copy)
    client = connect_tls(server, certificates.context(version))
    assert exchange(client, data, len(data)) == data
    end_in_order(client)
    assert server.received(server.wait_connection()) == data


def test_many_clients_on_several_workers(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(read=echo_back), tls=certificates.tls(), workers=3)

    def talk(index: int) -> None:
        client = connect_tls(server)
        for size in (1, 1000, 40_000):
            data = pattern(size, index)
            assert ask(client, data) == data
        end_in_order(client)

    in_threads(12, talk)
    server.wait_count("closing", 12)
    server.check_grammar()
    assert set(server.reasons()) == {CloseReason.PEER_CLOSED}


def test_a_server_may_speak_first(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(established=lambda conn: conn.send(b"220")), tls=certificates.tls())
    assert recv_exact(connect_tls(server), 3) == b"220"


def test_messages_are_cut_out_of_what_was_decrypted(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(
        EachMessage(lambda conn, messages: conn.send_messages(messages)),
        tls=certificates.tls(),
        framing=iocp_bind.LengthPrefix(2),
    )
    client = connect_tls(server)
    large = pattern(50_000)
    frames = b"\x00\x03one" + b"\xc3\x50" + large
    client.sendall(frames[:7])
    client.sendall(frames[7:])
    assert recv_exact(client, len(frames)) == frames
    conn = server.wait_connection()
    assert server.messages_of(conn) == [b"one", large]
    client.sendall(b"\x00\x09cut")
    client.unwrap().close()
    assert server.wait_closed(conn) is CloseReason.FRAME_ERROR
    assert isinstance(server.of("error")[0].value, iocp_bind.FrameError)


def test_a_broadcast_reaches_all_whose_handshake_is_done(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, connect: Connect
) -> None:
    server = serve(
        EachMessage(), tls=certificates.tls(), framing=iocp_bind.Delimiter(b"\n"), workers=2
    )
    clients = [connect_tls(server) for _ in range(4)]
    server.wait_count("established", 4)
    connect(server)
    wait_until(lambda: server.connection_count == 5, "the client without a handshake")
    data = pattern(100_000)
    first = next(c for c in server.connections() if c.remote_address == clients[0].getsockname())
    assert server.broadcast(data) == 4
    assert server.broadcast_message(b"bye", exclude=first) == 3
    assert server.broadcast(b"end") == 4
    for client in clients:
        assert recv_exact(client, len(data)) == data
        expected = b"end" if client is clients[0] else b"bye\nend"
        assert recv_exact(client, len(expected)) == expected


def test_a_client_that_does_not_read_is_not_read_from(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(read=echo_back), tls=certificates.tls())
    client = connect_tls(server)
    data = pattern(24_000_000)
    sent = 0
    client.setblocking(False)

    def nothing_more_is_taken() -> bool:
        nonlocal sent
        try:
            sent += client.send(data[sent : sent + 16384])
        except ssl.SSLWantWriteError:
            # Reading stops by the memory of the backlog, which is more than its bytes.
            return server.stats().send_backlog > 8 * 1024
        assert sent < len(data)
        return False

    wait_until(nothing_more_is_taken, "the server not reading", pause=0)
    assert server.stats().send_backlog < 2 * 1024 * 1024
    # The record that was refused comes first, as OpenSSL wants it.
    assert exchange(client, data[sent:], len(data)) == data


def test_pausing_stops_the_hooks_and_resuming_delivers_all(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(read=lambda conn, data: conn.pause_reading()), tls=certificates.tls())
    client = connect_tls(server)
    data = pattern(300_000)
    client.sendall(data[:10])
    conn = server.wait_count("read")[0].conn
    sender = threading.Thread(target=client.sendall, args=(data[10:],))
    sender.start()
    while server.received(conn) != data:
        count = len(server.of("read"))
        conn.resume_reading()
        server.wait_count("read", count + 1)
    sender.join()


# ---- The handshake.


def test_established_waits_for_the_handshake(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(read=echo_back), tls=certificates.tls(), first_data_timeout=None)
    raw = open_client(server)
    wait_until(lambda: server.connection_count == 1, "the connection")
    assert server.events == []
    assert server.connections() == []
    client = connect_tls(server, over=raw)
    assert ask(client, b"x") == b"x"
    assert [event.hook for event in server.events[:2]] == ["established", "read"]


@EACH_VERSION
def test_conn_tls_says_what_was_settled(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str
) -> None:
    seen: list[Any] = []
    server = serve(
        Recorder(established=lambda conn: seen.append(conn.tls), read=echo_back),
        tls=certificates.tls(alpn=["chat/2", "chat/1"]),
    )
    client = connect_tls(server, certificates.context(version, alpn=["chat/1", "chat/2"]))
    assert ask(client, b"x") == b"x"
    assert client.selected_alpn_protocol() == "chat/2"
    cipher = client.cipher()
    assert cipher is not None
    info = iocp_bind.TLSInfo(f"TLSv{version}", cipher[0], "chat/2", "localhost", None, False)
    assert seen == [info]
    conn = server.wait_connection()
    assert conn.tls == info
    with pytest.raises(AttributeError):
        conn.tls = None  # type: ignore[misc]
    with pytest.raises(AttributeError):
        info.version = "TLSv1.4"  # type: ignore[misc]
    end_in_order(client)
    server.wait_closed(conn)
    assert conn.tls == info, "it stays"


def test_without_tls_there_is_nothing_to_say(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=echo_back))
    assert ask(connect(server), b"x") == b"x"
    assert server.wait_connection().tls is None
    assert server.tls is None


def test_alpn(serve: Serve, certificates: Certificates, connect_tls: ConnectTls) -> None:
    server = serve(Recorder(read=echo_back), tls=certificates.tls(alpn=["one"]))
    assert ask(connect_tls(server), b"x") == b"x"
    (conn,) = server.connections()
    assert conn.tls is not None
    assert conn.tls.alpn is None, "a client that offers none is served"
    # The module of some Pythons, as that of 3.11 for Windows, has no name for this alert.
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol|unknown error"):
        connect_tls(server, certificates.context(alpn=["two"]))
    server.wait_for(lambda: failures(server) == {TLSFailure.PROTOCOL: 1}, "the failure")


def test_the_listening_line_and_the_repr_say_that_there_is_tls(
    serve: Serve, certificates: Certificates, caplog: pytest.LogCaptureFixture, logs: Logs
) -> None:
    caplog.set_level(logging.INFO, "iocp_bind")
    server = serve(Recorder(), tls=certificates.tls())
    assert logs.expect()[-1].getMessage().endswith(f" with {server.backend} and TLS")
    assert f"backend={server.backend} tls " in repr(server)


def test_versions_are_limited(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    old, new = certificates.context("1.2"), certificates.context("1.3")
    for wanted, refused, options in (
        (new, old, {"min_version": "1.3"}),
        (old, new, {"max_version": "1.2"}),
    ):
        server = serve(Recorder(read=echo_back), tls=certificates.tls(**options))
        assert ask(connect_tls(server, wanted), b"x") == b"x"
        with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"):
            connect_tls(server, refused)


def test_ciphers_are_chosen(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    ciphers = "ECDHE-ECDSA-CHACHA20-POLY1305:TLS_CHACHA20_POLY1305_SHA256"
    server = serve(Recorder(read=echo_back), tls=certificates.tls(ciphers=ciphers))
    for version in ("1.2", "1.3"):
        client = connect_tls(server, certificates.context(version))
        assert ask(client, b"x") == b"x"
        cipher = client.cipher()
        assert cipher is not None
        assert cipher[0] in ciphers.split(":")


HOLDS_THE_GIL = """
import ctypes, subprocess, sys
import iocp_bind

backend, openssl, ca, cert, key = sys.argv[1:]
server = iocp_bind.Server()
server.start(port=0, backend=backend, tls=iocp_bind.TLS(cert, key))
host, port = server.address
client = subprocess.Popen(
    [openssl, "s_client", "-connect", f"{host}:{port}", "-CAfile", ca, "-verify_return_error"],
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
status = ctypes.c_int(-1)
with_the_gil = ctypes.PyDLL(None)
assert with_the_gil.waitpid(client.pid, ctypes.byref(status), 0) == client.pid
client.returncode = status.value
print(status.value, server.stats().tls_handshakes)
server.shutdown()
"""


@pytest.mark.skipif("sys.platform == 'win32'", reason="needs waitpid")
def test_a_handshake_needs_no_gil(backend: str, certificates: Certificates) -> None:
    """All the while the main thread holds it, in waitpid()."""
    done = run_script(
        HOLDS_THE_GIL, backend, tool("openssl"), certificates.ca, *certificates.server
    )
    assert (done.stdout, done.stderr) == ("0 1\n", "")


# ---- The end of the stream.


def test_a_stream_that_is_cut_off_is_an_error_behind_its_data(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    ends: list[Connection] = []

    class Server(Recorder):
        def on_end_of_stream(self, conn: Connection) -> None:
            ends.append(conn)

    server = serve(Server(), tls=certificates.tls())
    client = connect_tls(server)
    client.sendall(b"the last words")
    cut_off(client)
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.ERROR
    assert server.received(conn) == b"the last words"
    (error,) = server.of("error")
    assert type(error.value) is iocp_bind.TLSTruncated
    assert isinstance(error.value, iocp_bind.TLSError)
    assert isinstance(error.value, ConnectionError)
    assert "cut off" in str(error.value)
    assert ends == []
    assert failures(server) == {}, "the handshake was done"


def test_truncation_may_be_allowed(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(), tls=certificates.tls(allow_truncation=True))
    client = connect_tls(server)
    client.sendall(b"the last words")
    cut_off(client)
    conn = server.wait_connection()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert server.received(conn) == b"the last words"
    assert server.of("error") == []


@EACH_VERSION
def test_close_sends_all_and_then_the_end_of_tls_and_of_the_stream(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, version: str
) -> None:
    answer = pattern(3_000_000)

    def read(conn: Connection, data: bytes) -> None:
        conn.send(answer)
        conn.close()

    server = serve(Recorder(read=read), tls=certificates.tls(), close_timeout=DEADLINE)
    client = connect_tls(server, certificates.context(version))
    client.sendall(b"question")
    # The end without that of TLS would be an SSLEOFError.
    assert recv_to_end(client) == answer
    end_in_order(client)
    assert server.wait_closed(server.wait_connection()) is CloseReason.LOCAL_CLOSE


def test_a_shutdown_ends_tls_in_order(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(), tls=certificates.tls())
    client = connect_tls(server)
    server.wait_count("established")
    stopping = threading.Thread(target=server.shutdown, args=(DEADLINE,))
    stopping.start()
    assert recv_to_end(client) == b""
    end_in_order(client)
    stopping.join()
    assert server.reasons() == [CloseReason.SHUTDOWN]


def test_an_abort_is_never_the_end_of_the_stream(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(read=lambda conn, data: conn.abort()), tls=certificates.tls())
    client = connect_tls(server)
    client.sendall(b"x")
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        recv_to_end(client)


def test_an_answer_may_come_after_the_end_of_the_stream(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    answer = pattern(500_000)

    class Upload(Recorder):
        def on_end_of_stream(self, conn: Connection) -> None:
            self._record("end", conn, None)

    server = serve(Upload(), tls=certificates.tls())
    client = connect_tls(server)
    client.sendall(b"question")
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()  # has sent the end, and would wait for ours
    conn = server.wait_count("end")[0].conn
    assert server.received(conn) == b"question"
    assert conn.send(answer)
    conn.close()
    client.settimeout(DEADLINE)
    assert recv_exact(client, len(answer)) == answer
    with pytest.raises(ssl.SSLZeroReturnError):
        client.recv(1)  # the end of TLS, behind ours
    client.close()
    assert server.wait_closed(conn) is CloseReason.LOCAL_CLOSE


def test_a_timeout_ends_the_connection(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    server = serve(Recorder(), tls=certificates.tls(), idle_timeout=0.1)
    client = connect_tls(server)
    # The client is reset. Python's ssl takes this for the end of the stream on Linux.
    with contextlib.suppress(OSError):
        assert recv_to_end(client) == b""
    assert server.wait_closed(server.wait_connection()) is CloseReason.IDLE_TIMEOUT


# ---- What the server takes as TLS.


def test_a_server_takes_the_tls_of_a_server_alone(certificates: Certificates, backend: str) -> None:
    server = Recorder()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(TypeError, match=r"not an ssl\.SSLContext.*iocp_bind\.TLS\(certfile"):
        server.start(port=0, backend=backend, tls=context)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tls must be an iocp_bind\.TLS.*not str"):
        server.start(port=0, backend=backend, tls="cert.pem")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be the TLS of a server"):
        server.start(port=0, backend=backend, tls=TLS.client(ca=certificates.ca))  # type: ignore[arg-type]
    assert server.tls is None
    assert not server.running


def test_an_attribute_that_hides_tls_is_refused(certificates: Certificates) -> None:
    class Hides(Recorder):
        tls = certificates.tls()

    with pytest.raises(
        TypeError, match=r"Hides\.tls .* set self\.tls in __init__, or pass tls= to start"
    ):
        Hides().start(port=0)


def test_new_clients_get_the_tls_that_was_set_last(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    context = certificates.context()
    context.check_hostname = False
    first, second = certificates.tls(), certificates.tls("renewed.example")
    server = serve(Recorder(read=echo_back), tls=first, workers=2)
    assert server.tls is first
    before = connect_tls(server, context)
    assert ask(before, b"x") == b"x"
    for bad in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "cert.pem", None):
        with pytest.raises(TypeError):
            server.tls = bad  # type: ignore[assignment]
    with pytest.raises(ValueError, match="TLS of a server"):
        server.tls = TLS.client(ca=certificates.ca)
    assert server.tls is first
    assert names_of(connect_tls(server, context)) == {"localhost"}
    server.tls = second
    assert server.tls is second
    for _ in range(4):
        assert names_of(connect_tls(server, context)) == {"renewed.example"}
    assert ask(before, b"y") == b"y", "who is connected keeps what there was"


def test_tls_may_be_set_before_start_and_stays_for_the_next(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls, connect: Connect
) -> None:
    server = Recorder(read=echo_back)
    server.tls = certificates.tls()
    serve(server)
    assert ask(connect_tls(server), b"x") == b"x"
    server.shutdown(0)
    with pytest.raises(ValueError, match="workers"):
        serve(server, workers=-1, tls=None)
    assert server.tls is not None, "a start that fails changes nothing"
    serve(server)
    assert ask(connect_tls(server), b"x") == b"x"
    server.shutdown(0)
    serve(server, tls=None)
    assert server.tls is None
    assert ask(connect(server), b"x") == b"x"
    server.tls = certificates.tls()
    assert ask(connect_tls(server), b"x") == b"x", "a server that runs may begin with TLS"


def test_tls_may_be_set_in_a_hook_and_on_many_threads(
    serve: Serve, certificates: Certificates, connect_tls: ConnectTls
) -> None:
    names = [f"n{i}.example" for i in range(4)]
    choices = {name: certificates.tls(name) for name in names}
    server = serve(Recorder(), tls=certificates.tls(), workers=2)

    def set_it(index: int) -> None:
        for name in (*names[index:], *names[:index]):
            server.tls = choices[name]

    in_threads(4, set_it)
    context = certificates.context()
    context.check_hostname = False
    (name,) = names_of(connect_tls(server, context))
    assert server.tls is choices[name], "the attribute and the server agree"
