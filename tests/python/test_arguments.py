"""Every argument of every public function, wrong: errors in the package's own words.

They name the argument, and never the internals. The options of start() have tests of their own, in
test_options.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from support import Connect, Recorder, Serve, ask

import iocp_bind

NOT_TEXT = [
    ("host", "\udc80"),
    ("host", "127.0.0.1\0.example"),
    ("backend", "\udc80"),
    ("backend", "epoll\0"),
    ("at_capacity", "\udc80"),
    ("established_on", "\udc80"),
]


@pytest.mark.parametrize(("name", "value"), NOT_TEXT)
def test_text_that_is_none(name: str, value: str) -> None:
    server = iocp_bind.Server()
    with pytest.raises(
        ValueError, match=f"{name} must be text without surrogates or NUL characters"
    ) as e:
        server.start(**{"port": 0, name: value})  # type: ignore[arg-type]
    assert repr(value) in str(e.value)
    assert not server.running


WRONG: list[tuple[Callable[[Any, Any], object], type[Exception], str]] = [
    (
        lambda s, c: s.broadcast("x"),
        TypeError,
        r"broadcast\(\) needs a bytes-like .* not 'str'; en",
    ),
    (lambda s, c: s.broadcast(5), TypeError, r"broadcast\(\) needs a bytes-like object, not 'int'"),
    (lambda s, c: s.broadcast(None), TypeError, r"broadcast\(\) needs a bytes-like object"),
    (
        lambda s, c: s.broadcast(memoryview(b"xyxy")[::2]),
        BufferError,
        r"broadcast\(\) .*contiguous",
    ),
    (
        lambda s, c: s.broadcast(b"x", 5),
        TypeError,
        "exclude must be an iocp_bind.Connection or None",
    ),
    (lambda s, c: s.broadcast(b"x", exclude=s), TypeError, "exclude must be .*, not Recorder"),
    (
        lambda s, c: s.close_connection(None),
        TypeError,
        "conn must be an iocp_bind.Connection, not ",
    ),
    (lambda s, c: s.close_connection(s), TypeError, "conn must be .*, not Recorder"),
    (lambda s, c: s.shutdown("5"), TypeError, "timeout must be a number of seconds, not str"),
    (lambda s, c: s.shutdown(None), TypeError, "timeout must be a number of seconds, not None"),
    (lambda s, c: s.shutdown(True), TypeError, "timeout must be a number of seconds, not bool"),
    (lambda s, c: s.shutdown(-1), ValueError, "timeout must be at least 0 seconds"),
    (lambda s, c: s.shutdown(float("nan")), ValueError, "timeout must be at least 0 seconds"),
    (lambda s, c: s.shutdown(10**400), ValueError, "timeout is out of range"),
    (lambda s, c: c.send("x"), TypeError, r"send\(\) needs a bytes-like object, not 'str'; encode"),
    (lambda s, c: c.send(None), TypeError, r"send\(\) needs a bytes-like object"),
    (lambda s, c: c.writelines(5), TypeError, r"writelines\(\) needs an iterable of bytes-like"),
    (lambda s, c: c.writelines("x"), TypeError, r"writelines\(\) needs a bytes-like object"),
    (lambda s, c: c.writelines([b"x", 5]), TypeError, r"writelines\(\) needs a bytes-like object"),
]


def test_wrong_arguments_are_named(serve: Serve, connect: Connect) -> None:
    server = serve(Recorder(read=lambda conn, data: conn.send(data)))
    client = connect(server)
    conn = server.wait_connection()
    for call, kind, words in WRONG:
        with pytest.raises(kind, match=words) as caught:
            call(server, conn)
        assert not re.search("incompatible function|_core|C\\+\\+", str(caught.value))
    assert server.running
    assert ask(client, b"unharmed") == b"unharmed"


def test_an_endless_shutdown_may_be_asked_for(serve: Serve) -> None:
    server = serve(Recorder())
    server.shutdown(float("inf"))
    assert not server.running
