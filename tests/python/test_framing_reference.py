"""The messages of random streams, cut at random places, against a plain reference."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from support import EachMessage, Feeder, Lists, Messages, NoWrites, Recorder, open_client
from support.framings import Cut, cut, encode, stripped

from iocp_bind import (
    CloseReason,
    Cobs,
    Connection,
    Delimiter,
    FixedSize,
    FrameError,
    Framing,
    LengthPrefix,
    Netstring,
    Slip,
    VarintPrefix,
)

pytest.importorskip("hypothesis")
from hypothesis import event, given
from hypothesis import strategies as st

FAULTS = {
    "too long": "longer than the|was announced",
    "malformed": "the bytes received are no message of this framing",
    "truncated": "the peer ended its stream inside a message",
}

# ---- The options: every one that Netty's LengthFieldBasedFrameDecoder has, and the other kinds.

SMALL = st.integers(0, 12)
MAX_SIZES = st.one_of(st.integers(1, 40), st.sampled_from([1000, 1 << 20, 1 << 40]))
LENGTHS = st.builds(
    LengthPrefix,
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from(["big", "little"]),
    offset=SMALL,
    adjust=st.one_of(st.integers(-20, 20), st.sampled_from([-(1 << 40), 1 << 40, -(1 << 16)])),
    strip=st.none() | st.integers(0, 24),
    max_size=MAX_SIZES,
)
# Delimiters that overlap, and begin with each other.
DELIMITERS = st.builds(
    lambda delimiters, keep, max_size: Delimiter(*delimiters, keep=keep, max_size=max_size),
    st.lists(st.text("ab;", min_size=1, max_size=3).map(str.encode), min_size=1, max_size=4),
    st.booleans(),
    MAX_SIZES,
)
OTHERS = st.one_of(
    st.builds(FixedSize, st.integers(1, 30)),
    st.builds(VarintPrefix, MAX_SIZES),
    st.builds(Netstring, MAX_SIZES),
    st.builds(Cobs, MAX_SIZES),
    st.builds(Slip, MAX_SIZES),
)
FRAMINGS = {"length": LENGTHS, "delimiter": DELIMITERS, "other": OTHERS}


# ---- Streams: some that make sense, with something in between that may not.


@st.composite
def _frames(draw: st.DrawFn, framing: Framing) -> bytes:
    """A frame as the framing wants it, or nearly so."""
    body = draw(st.binary(max_size=20))
    if isinstance(framing, LengthPrefix):
        # The bytes behind the length field; sometimes the field is wrong.
        length = len(body) - framing.adjust + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 1 << 60]))
        field = (length % (1 << 8 * framing.size)).to_bytes(framing.size, framing.byteorder)
        return draw(st.binary(min_size=framing.offset, max_size=framing.offset)) + field + body
    if isinstance(framing, Delimiter):
        text = draw(st.text("ab;x", max_size=12)).encode()
        return text + draw(st.sampled_from(framing.delimiters))
    if isinstance(framing, Cobs):
        body += bytes(draw(st.sampled_from([0, 1, 253, 254, 255, 600]))).replace(b"\0", b"z")
    if isinstance(framing, Slip) and not body:
        return b"\xc0" * 3
    return encode(framing, body)


@st.composite
def _programs(draw: st.DrawFn, framings: st.SearchStrategy[Framing]) -> tuple[Any, ...]:
    framing = draw(framings)
    noise = st.text("ab;x", max_size=6).map(str.encode) | st.binary(max_size=12)
    frame = _frames(framing)
    parts = draw(st.lists(st.one_of(frame, frame, frame, noise), max_size=6))
    stream = b"".join(parts)
    cuts = draw(st.sets(st.integers(0, len(stream)), max_size=8))
    if draw(st.booleans()):
        cuts = set(range(len(stream)))
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges) if a != b]
    return framing, stream, pieces


# ---- Servers: one for all examples, whose connections get their framing when they begin.


class _Subject(NoWrites, Messages):
    framing_of_next: Framing | None = None

    def on_connection_established(self, conn: Connection) -> None:
        conn.framing = self.framing_of_next
        super().on_connection_established(conn)


class _OneByOne(_Subject, EachMessage):
    pass


class _InLists(_Subject, Lists):
    pass


@contextlib.contextmanager
def _subjects(backend: Any) -> Iterator[list[_Subject]]:
    with contextlib.ExitStack() as stack:
        servers: list[_Subject] = []
        for kind in (_OneByOne, _InLists):
            for zero_copy in (False, True):
                server = stack.enter_context(kind())
                server.start(port=0, backend=backend, zero_copy=zero_copy, buffer_size=512)
                servers.append(server)
        yield servers


def _run(server: _Subject, framing: Framing, pieces: list[bytes]) -> tuple[list[bytes], Any]:
    server.framing_of_next = framing
    server.events.clear()
    with open_client(server) as client:
        conn = server.wait_connection()
        feeder = Feeder(client, conn)
        feeder.feed(*pieces)
        feeder.end()
        reason = server.wait_closed(conn)
    assert "read" not in server.hooks_of(conn)
    errors = [e.value for e in server.of_connection(conn) if e.hook == "error"]
    assert (reason is CloseReason.FRAME_ERROR) == bool(errors)
    assert errors or reason is CloseReason.PEER_CLOSED
    return server.messages_of(conn), errors[0] if errors else None


def _compare(framing: Framing, expected: Cut, found: tuple[list[bytes], Any]) -> None:
    messages, error = found
    assert messages == expected.messages
    fault = expected.fault
    if fault is None:
        assert error is None
        return
    assert isinstance(error, FrameError)
    assert any(words in str(error) for words in FAULTS[fault.kind].split("|")), (fault.kind, error)
    if fault.kind != "too long":
        assert (error.announced, error.limit) == (None, None)
        return
    assert error.limit == getattr(framing, "max_size")  # noqa: B009  mypy
    most = (1 << 64) - 1
    if fault.announced is None or fault.announced < most - 4096:
        assert error.announced == fault.announced
    else:  # as much as 64 bits can say, or nearly
        assert error.announced is not None
        assert most - 4096 <= error.announced <= most


@pytest.mark.parametrize("kind", FRAMINGS)
def test_random_streams(backend: str, kind: str) -> None:
    with _subjects(backend) as servers:

        @given(_programs(FRAMINGS[kind]))
        def run(program: tuple[Framing, bytes, list[bytes]]) -> None:
            framing, stream, pieces = program
            expected = cut(framing, stream)
            event(f"{kind}: {expected.fault.kind if expected.fault else 'whole'}")
            event(f"{kind}: {min(len(expected.messages), 3)} messages or more")
            for server in servers:
                _compare(framing, expected, _run(server, framing, pieces))

        run()


# Delimiters that begin in others, and so are found late.
NESTED: list[tuple[Framing, list[bytes]]] = [
    (Delimiter(b";", b"a;;"), [b"a;", b";"]),
    (Delimiter(b"\n", b"\r\n\r\n"), [b"x\r\n", b"\r\n", b"y\r\n", b"z\n"]),
    (Delimiter(b"a", b"ab", b"abab"), [b"aba", b"ab", b"aba"]),
    (Delimiter(b"ab", b"b", keep=True, max_size=1), [b"xa", b"b", b"a", b"b", b"xxb"]),
]


def test_nested_delimiters(backend: str) -> None:
    with _subjects(backend) as servers:
        for framing, pieces in NESTED:
            for server in servers:
                _compare(framing, cut(framing, b"".join(pieces)), _run(server, framing, pieces))


# ---- What is sent is received.


def _unlimited(framing: Any) -> Framing:
    if isinstance(framing, FixedSize):
        return framing
    unlimited: Framing = dataclasses.replace(framing, max_size=1 << 30)
    return unlimited


class _Sender(Recorder):
    def on_messages(self, conn: Connection, messages: list[bytes]) -> None: ...


@pytest.mark.parametrize("kind", FRAMINGS)
def test_what_is_sent_is_what_a_peer_gets(backend: Any, kind: str) -> None:
    """A peer with the same framing gets each message that is accepted, and nothing else."""
    with _Sender() as server:
        server.start(port=0, backend=backend)

        @given(st.data())
        def run(data: st.DataObject) -> None:
            framing = data.draw(FRAMINGS[kind])
            text = st.text("ab;x", max_size=8).map(str.encode)
            if isinstance(framing, Delimiter) and framing.keep:
                end = framing.delimiters[0]
                text = text.map(lambda body: body + end)
            frames = _frames(framing) if isinstance(framing, LengthPrefix) else text
            messages = data.draw(
                st.lists(st.one_of(text, frames, st.binary(max_size=30)), max_size=6)
            )
            server.events.clear()
            with open_client(server) as client:
                conn = server.wait_connection()
                conn.framing = framing
                accepted = []
                for message in messages:
                    with contextlib.suppress(ValueError):
                        assert conn.send_message(message)
                        accepted.append(message)
                event(f"{kind}: {min(len(accepted), 3)} accepted or more")
                conn.close()
                received = b""
                while part := client.recv(4096):
                    received += part
            # The limit is for what is received.
            assert cut(_unlimited(framing), received) == Cut(accepted, None)
            if isinstance(framing, LengthPrefix) and stripped(framing) == framing.size:
                assert received == b"".join(encode(framing, message) for message in accepted)

        run()
